"""Entries that start from published weights: what is loaded, what starts at random, and what the file may say."""

from __future__ import annotations

import pytest
import torch

from medmixers.checkpoints import read_weights
from medmixers.errors import InputError, MissingFileError
from medmixers.factory import create_network
from medmixers.study.engine.contents import refuse_changed_weights
from medmixers.study.engine.plan import make_plan
from medmixers.study.engine.spec import read_spec
from medmixers.study.engine.start import MIXER, write_start_weights

TINY = {"depths": (1, 1, 1, 1), "dims": (32, 32, 32, 32)}
OPTIONS = {"spatial_dims": 2, "in_channels": 3, "out_channels": 4, **TINY}
STUDY = """\
study: tiny
question: {margin: 0.01}
data:
  - {task: colon_pathology_classification, folder: colon, name: colon_a}
  - {task: colon_pathology_classification, folder: colon, name: colon_b}
entries:
  - {network: hybrid_identity_s12, data: "*_a"}
  - {network: hybrid_conv_s12, data: [colon_a]}
  - {network: hybrid_local_attention_s12, name: warm, pretrained: weights.pt, data: "colon_*"}
  - {network: hybrid_local_attention_s12, name: cold, pretrained: weights.pt, warm_start: false}
"""


@pytest.fixture
def published(tmp_path):
    """Weights of a hybrid [P,P,A,A] with another number of classes."""
    torch.manual_seed(7)
    state = create_network("hybrid_global_attention_s12", **{**OPTIONS, "out_channels": 10}).state_dict()
    torch.save(state, tmp_path / "weights.pt")
    return state


def started(tmp_path, name, *, warm_start, seed=0):
    file = tmp_path / "start.pt"
    before = torch.get_rng_state()
    write_start_weights(
        file, name, OPTIONS, weights=str(tmp_path / "weights.pt"), warm_start=warm_start, seed=seed
    )  # fmt: skip
    assert torch.equal(before, torch.get_rng_state())
    network = create_network(name, **OPTIONS)
    network.load_state_dict(read_weights(str(file), network))  # as the bundle reads it
    return network.state_dict()


def test_warm_and_cold_attention(tmp_path, published):
    name = "hybrid_local_attention_s12"
    torch.manual_seed(0)
    random = create_network(name, **OPTIONS).state_dict()
    warm, cold = (started(tmp_path, name, warm_start=each) for each in (True, False))
    mixers = [key for key in warm if MIXER in key]
    shared = [key for key in warm if key not in mixers and not key.startswith("head.")]
    assert any("qkv.weight" in key for key in mixers)
    for key in shared:
        assert torch.equal(warm[key], published[key])
        assert torch.equal(cold[key], published[key])
    qkv = "encoder.stages.3.blocks.0.token_mixer.qkv.weight"
    assert torch.equal(warm[qkv].flatten(), published[qkv].flatten())
    for key in mixers:
        assert torch.equal(cold[key], random[key])
    assert torch.equal(warm["head.weight"], random["head.weight"])  # of another number of classes


def test_a_seed_repeats_what_starts_at_random(tmp_path, published):
    first, again, other = (started(tmp_path, "hybrid_conv_s12", warm_start=True, seed=seed) for seed in (0, 0, 1))
    conv = next(key for key in first if MIXER in key and key.endswith("weight"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[conv], other[conv])


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(create_network("resnet18_keuth2025", spatial_dims=2, in_channels=3, out_channels=4).state_dict(),
               tmp_path / "weights.pt")  # fmt: skip
    with pytest.raises(InputError):
        started(tmp_path, "hybrid_conv_s12", warm_start=True)
    assert not (tmp_path / "start.pt").exists()


def spec_of(folder, old="", new=""):
    file = folder / "s.yaml"
    file.write_text(STUDY.replace(old, new) if old else STUDY)
    return read_spec(file)


def test_a_plan_keeps_what_an_entry_starts_from(tmp_path, published):
    plan = make_plan(spec_of(tmp_path), allow_missing=True)
    assert [row["entries"] for row in plan["datasets"]] == [
        ["hybrid_identity_s12", "hybrid_conv_s12", "warm", "cold"], ["warm", "cold"],
    ]  # fmt: skip
    identity, _, warm, cold = plan["entries"]
    assert (identity["pretrained"], identity["start"], identity["mixer"]) == (
        False, None, "pooling, pooling, identity, identity",
    )  # fmt: skip
    assert warm["start"] == {"weights": str(tmp_path / "weights.pt"), "warm_start": True}
    assert cold["start"]["warm_start"] is False
    assert warm["what"] != cold["what"]
    before = warm["what"]["pretrained"]
    torch.save({}, tmp_path / "weights.pt")  # the content counts, not the name
    assert make_plan(spec_of(tmp_path), allow_missing=True)["entries"][2]["what"]["pretrained"] != before


def test_a_training_refuses_weights_that_were_changed_or_removed_after_the_plan(tmp_path, published):
    entries = make_plan(spec_of(tmp_path), allow_missing=True)["entries"]
    for entry in entries:
        refuse_changed_weights("job", entry)
    file = tmp_path / "weights.pt"
    torch.save({}, file)
    refuse_changed_weights("job", entries[0])  # starts at random
    with pytest.raises(InputError, match=f"^job: {file} was changed after the study was planned; medmixers study run"):
        refuse_changed_weights("job", entries[2])
    file.unlink()
    with pytest.raises(MissingFileError, match=f"^job: there is no file {file}$"):
        refuse_changed_weights("job", entries[3])


def test_missing_weights_are_a_fault_of_a_run(tmp_path):
    (line,) = [each for each in make_plan(spec_of(tmp_path), allow_missing=True)["missing"] if "no weights" in each]
    assert line == (
        f"warm and 1 more: there are no weights {tmp_path / 'weights.pt'}; the published ones are "
        "sail-sg/poolformer: metaformer_ppaa_s12_224.pth.tar"
    )
    (tmp_path / "colon").mkdir()
    with pytest.raises(InputError, match=r"(?s)line 9: entry 'warm': there are no weights .*line 10: entry 'cold'"):
        make_plan(spec_of(tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "pretrained: weights.pt, data",
            "pretrained: 3, data",
            "line 9: pretrained must be a file, timm:NAME, true or",
        ),
        ("warm_start: false", "warm_start: cold", "line 10: warm_start must be true or false, got 'cold'"),
        ("pretrained: weights.pt, warm", "warm", "line 10: warm_start belongs to an entry with pretrained weights"),
        ('"colon_*"', '"pathology_*"', "line 9: unknown data set 'pathology_.'; valid: colon_a, colon_b"),
    ],
)
def test_faults(tmp_path, old, new, message):
    with pytest.raises(InputError, match=message):
        spec_of(tmp_path, old, new)


def test_start_weights_are_for_bundles(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    text = """\
study: tiny
question: {margin: 0.01}
data: [{nnunet: 900}]
entries:
  - {network: unet_star_star}
  - {network: token_unet, pretrained: weights.pt}
"""
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(InputError, match="line 6: entry 'token_unet': pretrained is for data sets of MONAI Bundles"):
        make_plan(read_spec(tmp_path / "s.yaml"), allow_missing=True)
