"""The study files that come with the package: the entries of each paper's tables, and plans without the data."""

from __future__ import annotations

from collections import Counter

import pytest

from medmixers.bundles.catalog import BUNDLES
from medmixers.cli.main import main
from medmixers.datasets.converters import CONVERTERS
from medmixers.errors import ExistingFileError, InputError
from medmixers.mixers import TOKEN_MIXERS
from medmixers.recipes import RECIPES
from medmixers.registry import UnknownNameError
from medmixers.results.published import published
from medmixers.study.engine import plan as planning
from medmixers.study.engine.cost import Cost
from medmixers.study.engine.plan import make_plan
from medmixers.study.engine.spec import read_spec
from medmixers.study.examples import EXAMPLES, write_example
from medmixers.variants import NETWORKS

PUBLISHED = published()
PAPERS = ("keuth2025_3d", "keuth2025_classification", "keuth2025_segmentation", "tshimanga2026", "xue2026")
SCRATCH, TRAINED = "[T,T,T,T], trained from scratch", "trained from scratch"
PRETRAINED, IMAGENET = "[P,P,T,T], channel MLPs pretrained on ImageNet-1K", "pretrained on ImageNet-1K"
RELEASED = "released code, outputs/summary_stats.csv"
MED = ("PathMNIST", "DermaMNIST", "PneumoniaMNIST", "OrganSMNIST")
WOOF = "ImageWoof"

# example -> block of entries on a data set -> tables and protocols whose rows they are, and the paper's data set
BLOCKS = {
    "keuth2025_classification": {
        **{f"{name}_scratch": [("Table 2", SCRATCH, name)] for name in MED},
        f"{WOOF}_scratch": [("Table 6", SCRATCH, WOOF)],
        **{f"{name}_pretrained": [("Table 2", PRETRAINED, name)] for name in MED},
        f"{WOOF}_pretrained": [("Table 7", PRETRAINED, WOOF)],
        **{f"{name}_hybrid": [("Table 8", "[P,P,T,T], trained from scratch", name)] for name in (*MED, WOOF)},
        **{
            f"{name}_baselines": [
                ("Table 2", TRAINED, name),
                ("Table 2", IMAGENET, name),
                ("Table 2", "encoder frozen, MLP head trained", name),
            ]
            for name in MED
        },
        f"{WOOF}_baselines": [("Table 6", TRAINED, WOOF), ("Table 7", IMAGENET, WOOF)],
        **{f"{name}_depth": [("Table 5", SCRATCH, name)] for name in MED[:2]},
    },
    "keuth2025_segmentation": {
        name + suffix: [("Table 3", protocol, task) for protocol in protocols]
        for name, task in (("JSRT", "JSRT"), ("GRAZPEDWRI-DX", "GRAZPEDWRI-DX"), ("TIGER", "TIGER at 768 x 768"))
        for suffix, protocols in (
            ("", [SCRATCH]),
            ("_baselines", [TRAINED, "encoder frozen, SegFormer decoder trained"]),
        )
    },
    "keuth2025_3d": {
        "NoduleMNIST3D": [("Table 4", TRAINED, "NoduleMNIST3D")],
        "AbdomenAtlas": [("Table 4", TRAINED, "AbdomenAtlas 1.0")],
        "AbdomenAtlas_depth": [("Table 5", SCRATCH, "AbdomenAtlas 1.0")],
    },
    "tshimanga2026": {"FeTS2022_nnunet": [(RELEASED, "nnU-Net, 100 epochs", "FeTS 2022, 5 folds")]},
}
LOST = {"local attn 3", "local attn 5", "local attn 7"}  # rows of Table 2 whose AUCs are lost, but not their counts
BASELINES = {"ResNet18 3", "ResNet18 5", "UNet 3", "UNet 5"}  # rows of Table 4 that the paper does not rank
UNDESCRIBED = "NDSnnUNet, the file's name"


def spec_of(name):
    return read_spec(EXAMPLES[name])


@pytest.fixture
def quick(monkeypatch):
    """Networks are not built; a slow test builds them."""
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.setattr(planning, "network_cost", lambda *given, **options: Cost(1, None))


@pytest.mark.parametrize(("example", "block"), [(name, block) for name in BLOCKS for block in BLOCKS[name]])
def test_a_block_has_the_rows_of_its_table(example, block):
    spec = spec_of(example)
    expected = Counter()
    for where, protocol, task in BLOCKS[example][block]:
        table = (spec.printed.paper, where, protocol)
        rows = [row for row in PUBLISHED if (row.paper, row.where, row.protocol) == table]
        names = {row.name for row in rows if row.task == task and row.quantity != "parameters"}
        lost = LOST if (where, protocol) == ("Table 2", SCRATCH) else {"local attn 5"} if where == "Table 4" else set()
        names |= {row.name for row in rows if row.name in lost}
        others = BASELINES if where == "Table 4" else {UNDESCRIBED}
        expected.update((protocol, name) for name in names - others)
    entries = [entry.name for entry in spec.entries if entry.trains_on(block)]
    assert expected
    assert Counter(spec.printed.entries[name] for name in entries) == expected


def test_counts_that_the_papers_state():
    """Keuth et al., section 4.3: N = 15, 19; JSRT and GRAZ 15, TIGER 18. Table 4: 11 and 2. Then Tshimanga et al."""
    counts = {
        (name, data.name): sum(entry.trains_on(data.name) for entry in spec.entries)
        for name in PAPERS
        for spec in [spec_of(name)]
        for data in spec.data
    }
    assert counts["keuth2025_classification", "PathMNIST_scratch"] == 15
    assert counts["keuth2025_classification", "PathMNIST_pretrained"] == 19
    assert [counts["keuth2025_segmentation", name] for name in ("JSRT", "GRAZPEDWRI-DX", "TIGER")] == [15, 15, 18]
    assert [counts["keuth2025_3d", name] for name in ("NoduleMNIST3D", "NoduleMNIST3D_baselines")] == [11, 2]
    assert [counts["keuth2025_3d", name] for name in ("AbdomenAtlas", "AbdomenAtlas_baselines")] == [11, 2]
    table = {row.build["network"] for row in PUBLISHED if (row.paper, row.where) == ("tshimanga2026", "Table 1")}
    assert {entry.network for entry in spec_of("tshimanga2026").entries if entry.trains_on("FeTS2022")} == table


@pytest.mark.parametrize("example", PAPERS)
def test_an_entry_is_the_network_of_its_row(example):
    """Network, mixers of the four stages and kernel as published.json builds them, which other tests count."""
    spec = spec_of(example)
    entries = {entry.name: entry for entry in spec.entries}
    checked = 0
    for name, (protocol, row_name) in spec.printed.entries.items():
        entry = entries[name]
        task = next(spec.printed.data[data.name] for data in spec.data if entry.trains_on(data.name))
        row = next(row for row in rows_of(spec, protocol, row_name) if row.task == task)
        if row.build is not None:
            build = row.build
            if not entry.network.startswith(("hybrid_", "monai:")):  # the same network under another name
                assert entry.network == build["network"]
            assert stages(entry.network, entry.options) == stages(build["network"], build), name
            kernel = entry.options.get("kernel_size")
            if isinstance(kernel, tuple):  # of the last two stages; those before keep 3
                assert kernel[:2] == (3, 3)
                assert kernel[2] == kernel[3]
                kernel = kernel[-1]
            assert kernel == build.get("kernel_size"), name
            checked += 1
    assert checked >= len(spec.printed.entries) - 2  # RAD-DINO and nnU-Net's own network have no build


def rows_of(spec, protocol, name):
    return [row for row in PUBLISHED if (row.paper, row.protocol, row.name) == (spec.printed.paper, protocol, name)]


def stages(network, options=()):
    mixer = {**NETWORKS[network].arguments, **dict(options)}.get("mixer", ())
    return (mixer,) * 4 if isinstance(mixer, str) else tuple(mixer)


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_plan_needs_no_data_and_says_what_is_missing(example, quick):
    spec = spec_of(example)
    plan = make_plan(spec, allow_underpowered=example not in PAPERS, allow_missing=True)
    trained = sum(entry.trains_on(data.name) for data in spec.data for entry in spec.entries)
    assert len(plan["runs"]) == trained * len(spec.seeds) * len(spec.folds or [0])
    assert len(spec.seeds) == (3 if example in PAPERS else 1)
    said = "\n".join(plan["missing"])
    for data in spec.data:
        assert data.name in said
        if data.task in CONVERTERS:
            assert f"medmixers dataset convert {data.task} DOWNLOADED {data.folder}" in said
    assert [row["published"] for row in plan["datasets"]].count(None) < len(spec.data) or example not in PAPERS
    with pytest.raises(InputError, match=r"there is no data set folder|nnUNet_raw, which is not set"):
        make_plan(spec, allow_underpowered=True)


def test_missing_weights_are_said_once(quick):
    plan = make_plan(spec_of("keuth2025_classification"), allow_missing=True)
    (weights,) = [each for each in plan["missing"] if "there are no weights" in each]
    assert weights.startswith("pretrained_pooling_k3 and 18 more: ")
    assert any(note.startswith("rad_dino: not built here; ") for note in plan["notes"])
    assert weights.endswith("the published ones are sail-sg/poolformer: metaformer_ppaa_s12_224.pth.tar")


@pytest.mark.parametrize(
    ("example", "dataset", "entry", "value"),
    [
        ("keuth2025_classification", "PathMNIST_scratch", "pooling_k3", "0.9758"),
        ("keuth2025_classification", "PathMNIST_scratch", "local_attention_k3", None),  # lost
        ("keuth2025_classification", "DermaMNIST_pretrained", "pretrained_identity", "0.9646"),
        ("keuth2025_classification", "ImageWoof_hybrid", "hybrid_conv_k5", "0.9191"),
        ("keuth2025_classification", "PneumoniaMNIST_baselines", "rad_dino", "0.9947"),
        ("keuth2025_classification", "DermaMNIST_depth", "random_mixing_s36", "0.8456"),
        ("keuth2025_segmentation", "TIGER", "pooling_k9", "0.6019"),
        ("keuth2025_segmentation", "JSRT_baselines", "unet_k3", "0.9552"),
        ("keuth2025_3d", "NoduleMNIST3D", "nodule_local_attention_k3", "0.8923"),
        ("keuth2025_3d", "AbdomenAtlas_baselines", "unet_k5", "0.9439"),
        ("tshimanga2026", "FeTS2022", "token_unet", "0.8721 ± 0.0035"),
        ("tshimanga2026", "FeTS2022", "unet_star_star", None),  # printed nowhere
        ("tshimanga2026", "FeTS2022_nnunet", "released_swin_unetr", "0.8226 ± 0.0144"),
        ("xue2026", "Monkeypox", "mednext", "0.9970"),
        ("xue2026", "ACDC", "medunext", "0.9128"),
    ],
)
def test_published_numbers_of_a_plan(example, dataset, entry, value, quick):
    """By hand, from the papers' tables; percentages as shares."""
    spec = spec_of(example)
    kinds = {"auroc": ("classification",), "dice": ("segmentation",)}
    data = next(each for each in spec.data if each.name == dataset)
    metric = data.metric or spec.question.metric
    assert metric in kinds
    values = spec.printed.of(dataset, metric, [each.name for each in spec.entries if each.trains_on(dataset)])["values"]
    assert values.get(entry) == value
    assert set(values) <= {each.name for each in spec.entries if each.trains_on(dataset)}


def test_imagewoof_has_no_published_auc_from_scratch():
    spec = spec_of("keuth2025_classification")
    assert spec.printed.of("ImageWoof_scratch", "auroc", ["pooling_k3", "conv_k3"]) is None


def test_the_networks_in_nnunet():
    """nnU-Net's own U-Net, the Token-UNet family, and the seven mixers of Keuth et al. by their recipe."""
    spec = spec_of("compare_nnunet")
    unets = [entry.network for entry in spec.entries if entry.data == ("unets",)]
    mixers = [entry.options["mixer"] for entry in spec.entries if entry.data == ("mixers",)]
    assert unets == [
        None, "unet_star_star", "token_unet_no_transformer", "token_unet", "token_unet_released_8_attention",
    ]  # fmt: skip
    assert mixers == list(TOKEN_MIXERS)[:7]
    assert [data.training.recipe for data in spec.data] == [None, "keuth2025_segmentation"]


def test_the_demo_trains_a_committed_bundle_by_its_recipe():
    spec = spec_of("demo")
    row = BUNDLES["brain_tissue_segmentation_grouped_conv"]
    entry = next(entry for entry in spec.entries if entry.name == "grouped_conv")
    options = {**RECIPES[row.recipe].network_options, **entry.options}
    assert (entry.network, options) == (row.network, dict(row.network_options))
    assert (spec.data[0].training.recipe, spec.data[0].training.patch_size) == (row.recipe, row.roi_size)
    assert "token_unet" in [entry.network for entry in spec.entries]


def test_the_command_prints_and_writes(tmp_path, capsys):
    main(["study", "example", "demo"])
    text = EXAMPLES["demo"].read_text()
    assert capsys.readouterr().out == text
    file = tmp_path / "demo.yaml"
    main(["study", "example", "demo", "-o", str(file)])
    assert capsys.readouterr().out == f"{file}; next: medmixers study plan {file}\n"
    assert file.read_text() == text
    with pytest.raises(ExistingFileError, match="exists; give another file"):
        write_example("demo", file)
    with pytest.raises(UnknownNameError, match="unknown example 'keuth'; valid: compare_nnunet, demo, keuth2025_3d"):
        write_example("keuth")
    assert set(EXAMPLES) == {*PAPERS, "demo", "compare_nnunet"}


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_every_network_of_an_example_can_be_built(example, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    plan = make_plan(spec_of(example), allow_underpowered=example not in PAPERS, allow_missing=True)
    for row in plan["datasets"]:
        unknown = set(row["entries"]) - row["parameters"].keys()
        assert unknown <= ({"rad_dino"} if row["world"] == "bundle" else unknown)
