"""``medmixers study swap``: replaced mixers against networks built by hand, and the change of the score."""

import csv
import json
import shutil
import sys
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from made_study import make_study
from scipy.stats import ttest_rel
from sklearn.metrics import roc_auc_score
from test_study_command import run

from medmixers import create_network
from medmixers.bundles.share.pack import pack_bundle
from medmixers.bundles.verify.synthetic import write_synthetic
from medmixers.study.report.page import write_report
from medmixers.study.swap import places_of, replaced
from medmixers.study.swap_effects import _Changes, _Outcome, swap_effects

sys.path.append(str(Path(__file__).parents[1] / "bundles"))
from bundle_helpers import ROOT, write_dataset
from small_bundle import OPTIONS, start_weights, write_small_bundle

FOUR = {"depths": [1, 2, 1, 1], "dims": [16, 16, 16, 16], "layer_scale_init": 1.0}


def network_of(name="metaformer_s12", **options):
    torch.manual_seed(0)
    options = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, **options}
    network = create_network(name, **options).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.fixture
def image():
    torch.manual_seed(1)
    return torch.randn(2, 1, 64, 64)


def named(network, name):
    return [place for place in places_of(network) if place.name == name]


@pytest.mark.parametrize("replacement", ["identity", "pooling"])
def test_a_stage_whose_mixer_is_the_replacement_changes_nothing(replacement, image):
    network = network_of(mixer=["conv", replacement, "grouped_conv", "local_attention"], **FOUR)
    with torch.no_grad():
        before = network(image)
        with replaced(network, named(network, "stage 2"), replacement):
            assert torch.equal(network(image), before)
        with replaced(network, named(network, "stage 1"), replacement):
            assert not torch.equal(network(image), before)
        assert torch.equal(network(image), before)  # all is put back


@pytest.mark.parametrize("replacement", ["identity", "pooling"])
def test_logits_are_those_of_a_network_built_with_the_replacement(replacement, image):
    mixers = ["conv", "grouped_conv", "sep_conv", "global_attention"]
    network = network_of(mixer=mixers, **FOUR)
    for number in range(4):
        others = [replacement if i == number else mixer for i, mixer in enumerate(mixers)]
        built = network_of(mixer=others, **FOUR)
        weights = network.state_dict()
        built.load_state_dict({name: weights[name] for name in built.state_dict()})
        with torch.no_grad(), replaced(network, named(network, f"stage {number + 1}"), replacement):
            assert torch.equal(network(image), built(image))


@pytest.mark.parametrize(("mixer", "window"), [("global_attention", None), ("local_attention", 3)])
def test_mean_attention_is_the_mean_of_the_values_attended_to(mixer, window):
    options = {} if window is None else {"kernel_size": window}
    if mixer == "local_attention":
        options["mixer_options"] = {"full_attention_tokens": 0}
    network = network_of(mixer=mixer, **options, **FOUR)
    place = named(network, "stage 3")[0]
    attention, x = place.attentions[0], torch.randn(1, 16, 6, 5)
    value = (x.movedim(1, -1) @ attention.qkv.weight[32:].T).movedim(-1, 1)
    if attention.qkv.bias is not None:
        value = value + attention.qkv.bias[32:, None, None]
    for row, column in ((0, 0), (2, 3), (5, 4)):
        rows, columns = slice(None), slice(None)
        if window is not None:
            rows, columns = slice(max(row - 1, 0), row + 2), slice(max(column - 1, 0), column + 2)
        expected = attention.proj(value[0, :, rows, columns].mean(dim=(1, 2)))
        with torch.no_grad(), replaced(network, [place], "mean"):
            assert torch.allclose(attention(x)[0, :, row, column], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["token_unet", "token_unet_released_8_attention"])
def test_tokens_that_add_nothing_and_equal_attention(name, image):
    network = network_of(name, channels=[8, 8, 8, 8])
    tokens, attention = places_of(network)
    assert tokens.replacements == ["identity", "mean"]
    assert attention.replacements == ["mean"]
    pooling = tokens.attentions[0]
    with torch.no_grad(), replaced(network, [tokens, attention], "mean"):
        network(image)
        share = 1 / pooling.attention[0, 0].numel()
        assert torch.allclose(pooling.attention, torch.full_like(pooling.attention, share))
    fuser = tokens.slots[0][0].get_submodule(tokens.slots[0][1])
    with torch.no_grad(), replaced(network, [tokens], "identity"):
        without = network(image)
    for parameter in fuser.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        assert torch.allclose(network(image), without, atol=1e-5)  # zero scores spread nothing


@pytest.mark.parametrize(("name", "options"), [("unet_star_star", {"channels": [8, 8]}), ("timm:poolformer_s12", {})])
def test_a_network_without_mixers_of_ours_is_refused(name, options):
    with pytest.raises(ValueError, match="has no token mixer that can be replaced"):
        places_of(network_of(name, **options))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A bundle whose last stage is cut off by its layer scale, and data."""
    folder = tmp_path_factory.mktemp("swap")
    bundle = write_small_bundle(folder)
    weights = start_weights()
    generator = torch.Generator().manual_seed(1)
    for name, value in weights.items():
        value += 0.3 * value.std(correction=0) * torch.randn(value.shape, generator=generator)
        if "stages.3" in name and "layer_scale1" in name:
            value.zero_()
    (bundle / "models").mkdir()
    torch.save(weights, bundle / "models" / "model.pt")
    return bundle, write_dataset(folder / "data", held_out=3)


def evaluated(bundle, data, folder, mixer, weights):
    """Mean Dice of the bundle's own evaluation of a network with these mixers."""
    files = [str(bundle / "configs" / f"{name}.json") for name in ("train", "evaluate")]
    paths = {"dataset_dir": str(data), "output_dir": str(folder), "ckpt_path": str(weights)}
    monai.bundle.run(config_file=files, bundle_root=str(bundle), **paths, **{"network_def#mixer": mixer})
    with (folder / "val_mean_dice_raw.csv").open() as content:
        rows = list(csv.DictReader(content))
    return np.array([np.nanmean([float(row[name]) for name in row if name.startswith("class")]) for row in rows])


def test_changes_are_those_of_networks_built_by_hand(trained, tmp_path, capsys):
    bundle, data = trained
    table = tmp_path / "swap.csv"
    status, out, _ = run(capsys, "study", "swap", bundle, data, "--csv", table, "--replacements", "identity")
    assert status == 0
    with table.open() as content:
        rows = {row["stage"]: row for row in csv.DictReader(content)}
    assert list(rows) == ["stage 1", "stage 2", "stage 3", "stage 4", "all stages"]
    assert [float(rows["stage 4"][key]) for key in ("change", "low", "high", "p_corrected")] == [0, 0, 0, 1]
    mixers = [OPTIONS["mixer"], "identity", OPTIONS["mixer"], OPTIONS["mixer"]]
    weights = torch.load(bundle / "models" / "model.pt")
    kept = {name: value for name, value in weights.items() if "stages.1.blocks.0.token_mixer" not in name}
    torch.save(kept, tmp_path / "without.pt")
    before = evaluated(bundle, data, tmp_path / "a", OPTIONS["mixer"], bundle / "models" / "model.pt")
    after = evaluated(bundle, data, tmp_path / "b", mixers, tmp_path / "without.pt")
    expected = ttest_rel(after, before)
    row = rows["stage 2"]
    assert float(row["trained"]) == pytest.approx(before.mean(), abs=1e-6)
    assert float(row["change"]) == pytest.approx((after - before).mean(), abs=1e-6)
    interval = expected.confidence_interval(0.95)
    assert [float(row["low"]), float(row["high"])] == pytest.approx(list(interval), abs=1e-5)
    assert f"{float(row['change']):+.4f}" in out
    assert row["cases"] == "3"


def test_a_study_run_and_a_zip_give_the_same_and_the_report_shows_it(trained, tmp_path, capsys):
    bundle, data = trained
    study = tmp_path / "study"
    plan = make_study(study, kinds=("segmentation",), entries=("identity", "pooling k3"), cases=3)
    run_id = plan["runs"][0]["id"]
    home = study / "runs" / run_id
    shutil.copytree(bundle, home / "bundle")
    paths = {path.name[:6]: path for path in sorted((data / "imagesTs").iterdir())}
    for case, path in paths.items():
        truth = str(data / "labelsTs" / f"{case}.nii.gz")
        plan["datasets"][0]["cases"][case] = {"image": [str(path)], "truth": truth, "group": None}
    plan["runs"][0]["cases"] = list(paths)
    (study / "plan.json").write_text(json.dumps(plan))
    status, out, _ = run(capsys, "study", "swap", home, "--replacements", "pooling")
    assert status == 0
    assert str(home / "swap.csv") in out
    packed = pack_bundle(bundle, out=tmp_path / "zips", exports=False)
    effects = swap_effects(packed.path, data, replacements=["pooling"])
    with (home / "swap.csv").open() as content:
        found = [float(row["change"]) for row in csv.DictReader(content)]
    assert found == pytest.approx([row.change for row in effects.rows])
    write_report(study)
    page = (study / "report" / "report.html").read_text()
    assert "Does the mixer matter?" in page
    assert f"{found[0]:+.4f}" in page


def test_changes_of_auroc_are_scikit_learns_and_groups_count_once():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    models = [rng.dirichlet(np.ones(3) + weight * np.eye(3)[label]) for weight in (6, 2) for label in labels]
    first, second = np.array(models[:60]), np.array(models[60:])
    changes = _Changes(np.arange(60) // 2, 0.05, 0)
    outcomes = [_Outcome(probabilities=each, labels=labels) for each in (first, second, first)]
    rows, correction = changes.of("auroc", outcomes)
    before, after = (roc_auc_score(labels, each, multi_class="ovr") for each in (first, second))
    assert correction == "max-T"
    assert rows[0][:2] == pytest.approx((before, after - before))
    assert rows[0][2] < after - before < rows[0][3] < 0
    assert rows[1] == (rows[0][0], 0, 0, 0, 1, 30, 0)
    accuracy, _ = changes.of("accuracy", outcomes)
    right = [(each.argmax(1) == labels).reshape(30, 2).mean(1) for each in (first, second)]
    low, high = ttest_rel(right[1], right[0]).confidence_interval(0.95)
    assert accuracy[0][1:4] == pytest.approx(((right[1] - right[0]).mean(), low, high))


def test_a_classifier_against_its_own_evaluation(tmp_path):
    name = "chest_xray_pneumonia_classification_global_attention"
    bundle = shutil.copytree(ROOT / "bundles" / name, tmp_path / name)
    for file in ("train", "inference"):
        config = json.loads((bundle / "configs" / f"{file}.json").read_text())
        config["network_def"] |= FOUR
        config["image_size"] = [32, 32]
        (bundle / "configs" / f"{file}.json").write_text(json.dumps(config))
    options = {"mixer": "global_attention", "positional_embedding": True, "input_size": [32, 32], **FOUR}
    network = network_of(**{**options, "out_channels": 2})
    (bundle / "models").mkdir()
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    data = write_synthetic(tmp_path / "data", metadata, {"spatial_dims": 2, "classes": 2})
    effects = swap_effects(bundle, data, replacements=["mean"], metric="brier")
    assert [row.stage for row in effects.rows] == ["stage 1", "stage 2", "stage 3", "stage 4", "all stages"]
    assert effects.rows[0].change != 0
    assert effects.rows[3].change == 0  # one position: it attends to itself
    files = [str(bundle / "configs" / f"{name}.json") for name in ("train", "evaluate")]
    options = {"dataset_dir": str(data), "output_dir": str(tmp_path / "eval")}
    monai.bundle.run(config_file=files, bundle_root=str(bundle), **options)
    with (tmp_path / "eval" / "probabilities.csv").open() as content:
        rows = list(csv.DictReader(content))
    brier = [sum((float(row[name]) - (row["truth"] == name)) ** 2 for name in ("normal", "pneumonia")) for row in rows]
    assert effects.rows[0].trained == pytest.approx(np.mean(brier), abs=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "needs its data: medmixers study swap"),
        (["DATA", "--metric", "auroc"], "unknown metric 'auroc' of segmentations; valid: dice"),
        (["DATA", "--replacements", "mean"], "mean replaces no mixer of this network; valid: identity, pooling"),
        (["DATA", "--replacements", "meen"], "unknown replacement 'meen'; valid: "),
        (["DATA", "--checkpoint", "none.pt"], "no weights at 'none.pt'"),
        (["DATA", "--alpha", "1"], "alpha must lie between 0 and 1, got 1"),
    ],
)
def test_bad_input_ends_in_one_line(trained, words, message, capsys):
    bundle, data = trained
    status, _, err = run(capsys, "study", "swap", bundle, *[data if word == "DATA" else word for word in words])
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
