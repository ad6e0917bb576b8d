"""``medmixers nnunet plan`` beside stock plans: patches, strides, memory, shared data, refusals. No training."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from medmixers.nnunet.memory import training_memory
from medmixers.nnunet.planner import default_plans_name, plan_network

META = "metaformer_segformer_s12"
AMPLE = {"gpu_memory_gb": 1000}  # the first patch that is tried fits
TINY = {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32), "decoder_channels": 16}


@pytest.fixture
def dataset(nnunet_folders, dataset_json):
    """Two folders of dataset 900: one raw image, and a fingerprint of 40 cases of 60 x 256 x 256, 3 x 1 x 1 mm."""
    raw, preprocessed = (nnunet_folders / f"nnUNet_{name}" / "Dataset900_Thin" for name in ("raw", "preprocessed"))
    for folder in (raw / "imagesTr", raw / "labelsTr", preprocessed, nnunet_folders / "nnUNet_results"):
        folder.mkdir(parents=True)
    (raw / "dataset.json").write_text(json.dumps({**dataset_json, "numTraining": 40}))
    cube = nib.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4))
    nib.save(cube, raw / "imagesTr" / "a_0000.nii.gz")
    nib.save(cube, raw / "labelsTr" / "a.nii.gz")
    write_fingerprint(preprocessed, [60, 256, 256], [3.0, 1.0, 1.0])
    return preprocessed


@pytest.fixture(scope="module")
def stock_files():
    """Name -> text of what nnU-Net's planning of that fingerprint wrote."""
    return {}


@pytest.fixture
def stock(dataset, stock_files):
    """Configurations of the stock plans, which are made once and then copied."""
    if not stock_files:
        before = set(dataset.iterdir())
        plan_experiment_dataset(900)
        stock_files |= {path.name: path.read_text() for path in set(dataset.iterdir()) - before}
    for name, text in stock_files.items():
        (dataset / name).write_text(text)
    return plans(dataset, "nnUNetPlans")["configurations"]


def write_preprocessed(folder, *cases, spacing=(1.0, 1.0, 1.0)):
    """Cases as nnU-Net's preprocessing leaves them, which had this spacing before and after."""
    folder.mkdir()
    image = np.zeros((1, 6, 8, 8), np.float32)
    before = {"spacing": list(spacing), "shape_after_cropping_and_before_resampling": image.shape[1:]}
    for case in cases:
        nnUNetDatasetBlosc2.save_case(image, image.astype(np.int8), before, str(folder / case))


def write_fingerprint(folder, shape, spacing, intensities=None):
    row = {
        "spacings": [spacing] * 40,
        "shapes_after_crop": [shape] * 40,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": intensities or {},
    }
    (folder / "dataset_fingerprint.json").write_text(json.dumps(row))


def plans(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def plan(network, **options):
    """Plan, and read what was written as nnU-Net reads it."""
    text = plan_network(900, network, **options)
    return text, PlansManager(text.splitlines()[0])


def test_plans_share_the_stock_data_and_fit_the_strides_and_the_memory(dataset, stock):
    text, ours = plan("token_unet", gpu_memory_gb=4)
    assert ours.plans_name == "TokenUnetPlans"
    assert plans(dataset, "nnUNetPlans")["configurations"] == stock, "the stock plans were touched"
    for name in ("2d", "3d_fullres"):
        row = ours.get_configuration(name)
        assert row.data_identifier == stock[name]["data_identifier"] == f"nnUNetPlans_{name}"
        assert row.spacing == stock[name]["spacing"]
        steps = np.prod(row.pool_op_kernel_sizes, axis=0)
        assert not (np.array(row.patch_size) % steps).any()
        assert row.batch_size >= 2
        memory = training_memory(lambda row=row: network_of(row, deep_supervision=True), 1, row.patch_size)
        assert memory.gib(row.batch_size) <= 4
        # more does not fit, or would be more than nnU-Net's 5 % of the data
        share = 0.05 * 40 * 60 * 256 * 256 / np.prod(row.patch_size)
        assert memory.gib(row.batch_size + 1) > 4 or row.batch_size + 0.5 >= share
    # the thin axis is left alone where nnU-Net leaves it alone
    assert ours.get_configuration("3d_fullres").pool_op_kernel_sizes[1] == [1, 2, 2]
    assert "train: nnUNetv2_train 900 3d_fullres 0 -p TokenUnetPlans" in text
    assert "preprocess first: nnUNetv2_preprocess -d 900 -plans_name TokenUnetPlans" in text
    for name in ("2d", "3d_fullres"):
        write_preprocessed(dataset / f"nnUNetPlans_{name}", "a", spacing=[3.0, *stock[name]["spacing"]][-3:])
    assert "preprocess first" not in plan("token_unet", gpu_memory_gb=4)[0]


def network_of(row, **options):
    from medmixers.nnunet.architecture import create_network_from_plans

    return create_network_from_plans(1, 2, **row.network_arch_init_kwargs, **options)


@pytest.mark.usefixtures("stock")
def test_other_spacing_gets_data_of_its_own(dataset):
    write_fingerprint(dataset, [60, 256, 256], [3.0, 0.9, 0.9])
    _, ours = plan(META, **TINY, mixer="pooling", plans_name="Mine")
    assert ours.get_configuration("3d_fullres").data_identifier == "Mine_3d_fullres"


def ct(folder, mean, std):
    """A fingerprint of CT, whose normalisation takes mean, std and percentiles of the data set."""
    row = {
        "mean": mean, "median": mean, "std": std, "min": mean - 3 * std, "max": mean + 3 * std,
        "percentile_00_5": mean - 2 * std, "percentile_99_5": mean + 2 * std,
    }  # fmt: skip
    write_fingerprint(folder, [60, 64, 64], [1.0, 1.0, 1.0], {"0": row})


def data_of(planned, name="3d_fullres"):
    return planned.get_configuration(name).data_identifier


@pytest.mark.parametrize("modality", ["CT", "T1"])
def test_data_of_another_intensity_normalisation_are_not_shared(modality, dataset, nnunet_folders, dataset_json):
    raw = nnunet_folders / "nnUNet_raw" / "Dataset900_Thin" / "dataset.json"
    raw.write_text(json.dumps({**dataset_json, "numTraining": 40, "channel_names": {"0": modality}}))
    ct(dataset, mean=40, std=60)
    plan_experiment_dataset(900)
    write_preprocessed(dataset / "nnUNetPlans_3d_fullres", "a")
    text, ours = plan("unet_star_star", plans_name="Same", **AMPLE)
    assert data_of(ours) == "nnUNetPlans_3d_fullres"
    ct(dataset, mean=400, std=300)  # cases were corrected, and only the fingerprint was extracted again
    text, ours = plan("unet_star_star", plans_name="Mine", **AMPLE)
    if modality == "T1":  # z-scores of each image: the fingerprint changes nothing
        assert data_of(ours) == "nnUNetPlans_3d_fullres"
        return
    assert data_of(ours) == "Mine_3d_fullres"
    assert "preprocess first: nnUNetv2_preprocess -d 900 -plans_name Mine -c 3d_fullres" in text
    write_preprocessed(dataset / "Mine_3d_fullres", "a")
    text, ours = plan("unet_star_star", plans_name="Mine", **AMPLE)
    assert data_of(ours) == "Mine_3d_fullres"
    assert "-c 3d_fullres" not in text, "these plans preprocessed the data that are there"
    ct(dataset, mean=0, std=30)
    with pytest.raises(ValueError, match="Mine_3d_fullres holds data of other settings: remove it"):
        plan("unet_star_star", plans_name="Mine", **AMPLE)
    ct(dataset, mean=400, std=300)
    _, other = plan("token_unet", plans_name="Other", **AMPLE)
    assert data_of(other) == "Mine_3d_fullres"
    ct(dataset, mean=0, std=30)
    with pytest.raises(ValueError, match="Other use the preprocessed data Mine_3d_fullres of other settings"):
        plan("unet_star_star", plans_name="Mine", **AMPLE)


def test_data_of_a_spacing_of_before_are_preprocessed_again(dataset, stock):
    """A second plan finds plans that agree, but nobody has preprocessed since."""
    write_preprocessed(dataset / "nnUNetPlans_3d_fullres", "a", spacing=(3.0, 1.0, 1.0))
    write_fingerprint(dataset, [60, 256, 256], [3.0, 0.9, 0.9])
    plan("unet_star_star", plans_name="Mine", **AMPLE)
    write_preprocessed(dataset / "Mine_3d_fullres", "a", spacing=(3.0, 0.9, 0.9))
    assert "-c 3d_fullres" not in plan("unet_star_star", plans_name="Mine", **AMPLE)[0]
    write_fingerprint(dataset, [60, 256, 256], [3.0, 0.7, 0.7])
    for _ in range(2):
        text, ours = plan("unet_star_star", plans_name="Mine", **AMPLE)
        assert data_of(ours) == "Mine_3d_fullres"
        assert "preprocess first: nnUNetv2_preprocess -d 900 -plans_name Mine -c 3d_fullres" in text
    plan_experiment_dataset(900)  # the stock plans change, and their data stay
    text, ours = plan("unet_star_star", plans_name="Next", **AMPLE)
    assert data_of(ours) == "Next_3d_fullres"


@pytest.mark.usefixtures("stock")
def test_data_of_other_cases_are_not_shared(dataset):
    write_preprocessed(dataset / "nnUNetPlans_3d_fullres", "a", "b")  # b was taken out of the data set
    write_preprocessed(dataset / "nnUNetPlans_2d", "a", spacing=(3.0, 1.0, 1.0))
    text, ours = plan("unet_star_star", **AMPLE)
    assert (data_of(ours), data_of(ours, "2d")) == ("UnetStarStarPlans_3d_fullres", "nnUNetPlans_2d")
    assert text.count("preprocess first: nnUNetv2_preprocess -d 900 -plans_name UnetStarStarPlans -c 3d_fullres\n") == 1


@pytest.mark.parametrize("name", ["dataset", "SomebodysPlans"])
def test_a_file_that_is_not_ours_is_not_replaced(name, dataset):
    file = dataset / f"{name}.json"
    file.write_text('{"configurations": {}}')
    with pytest.raises(ValueError, match=f"{name}.json exists and holds no plans of this package"):
        plan_network(900, "unet_star_star", plans_name=name)
    assert file.read_text() == '{"configurations": {}}'


@pytest.mark.parametrize("name", [900, "900", "Dataset900_Thin"])
def test_a_dataset_goes_by_name_or_id(name, dataset):
    assert "train: nnUNetv2_train 900 3d_fullres 0 -p P" in plan_network(
        name, "unet_star_star", plans_name="P", **AMPLE
    )


def test_memory_decides_the_patch(dataset):
    small, large = (
        plan(META, **TINY, mixer="local_attention", gpu_memory_gb=gib, plans_name=f"P{number}")[1]
        for number, gib in enumerate((0.5, 8))
    )
    voxels = [np.prod(p.get_configuration("3d_fullres").patch_size) for p in (small, large)]
    assert voxels[0] < voxels[1]


def test_a_stem_of_two_and_a_bound_mixer_stand_in_the_plans(dataset):
    _, ours = plan(META, **TINY, mixer="random_mixing", stem_stride=2, patch_size=(16, 64, 64))
    assert ours.plans_name.startswith("MetaformerSegformerS12Depths1111Dims16163232DecoderChannels16RandomMixing")
    row = ours.get_configuration("3d_fullres")
    assert row.patch_size == [16, 64, 64] == row.network_arch_init_kwargs["input_size"]
    assert row.pool_op_kernel_sizes[1] == [1, 2, 2]
    assert "stem_stride" not in row.network_arch_init_kwargs
    network_of(row)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (META, {"mixer": "random_mixing", "patch_size": (64, 256, 256)}, r"\d+ in stage 1, the limit is 32768"),
        (
            META,
            {"mixer": "global_attention", "stem_stride": 1, "patch_size": (512, 512), **TINY},
            "has 262144 in stage 1",
        ),
        (META, {"mixer": "conv", "gpu_memory_gb": 0.001, **TINY}, r"does not fit into 0.001 GB: a patch of"),
        ("token_unet", {"patch_size": (256, 256, 256)}, r"does not fit into 8 GB: a patch of 256 x 256 x 256 needs"),
        (
            "metaformer_s12",
            {},
            "'metaformer_s12' is not a segmentation network; valid: metaformer_segformer_s12, .*; "
            "'medmixers list networks' lists all",
        ),
        ("token_unet", {"strides": 2}, "has no option 'strides'; valid: channels"),
        ("token_unet", {"channels": 32}, "channels must be a sequence of integers, got 32"),
        ("token_unet", {"channels": (8, 16)}, r"has 1 output\(s\) for deep supervision, and nnU-Net needs 2"),
        ("unet_star_star", {"channels": (8,)}, r"has 0 output\(s\) for deep supervision"),
        (META, {"depths": (1,), "dims": (16,)}, r"has 1 output\(s\) for deep supervision, and nnU-Net needs 2"),
        ("token_unet", {"plans_name": "nnUNetPlans"}, "plans_name must be letters and digits and not nnUNetPlans"),
        ("token_unet", {"plans_name": "a__b"}, "plans_name must be letters and digits"),
        ("token_unet", {"gpu_memory_gb": 0}, "gpu_memory_gb must be positive and finite, got 0"),
        ("token_unet", {"gpu_memory_gb": float("inf")}, "gpu_memory_gb must be positive and finite, got inf"),
        ("token_unet", {"patch_size": (10**6,) * 3}, "patch_size may have at most 2,147,483,648 voxels"),
        ("token_unet", {"patch_size": (64,)}, r"patch_size must be 2 or 3 positive integers, got \(64,\)"),
    ],
)
def test_what_cannot_be_planned_is_named(network, options, message, dataset):
    before = sorted(dataset.iterdir())
    with pytest.raises(ValueError, match=message):
        plan_network(900, network, **options)
    assert sorted(dataset.iterdir()) == before


def test_a_dataset_that_nnunet_does_not_know_is_named(dataset):
    with pytest.raises(ValueError, match=r"^dataset 901: Could not find a dataset with the ID 901[^\n]*$"):
        plan_network(901, "token_unet")
    with pytest.raises(ValueError, match=r"there is no data set 'Dataset900_Thick' .*; with its id: Dataset900_Thin$"):
        plan_network("Dataset900_Thick", "token_unet")
    with pytest.raises(ValueError, match=r"dataset must be an id such as 900 or a name such as .*, got 'Thin'"):
        plan_network("Thin", "token_unet")
    (dataset / "dataset_fingerprint.json").unlink()
    with pytest.raises(ValueError, match=r"^dataset Dataset900_Thin: Fingerprint missing for this dataset"):
        plan_network(900, "token_unet")


def test_names_tell_networks_apart():
    assert default_plans_name("token_unet", {}) == "TokenUnetPlans"
    options = {"mixer": "grouped_conv", "kernel_size": 5}
    assert default_plans_name(META, options) == "MetaformerSegformerS12GroupedConvKernelSize5Plans"
    hybrid = {"mixer": ("pooling", "sep_conv"), "drop_path_rate": 0.1}
    assert default_plans_name(META, hybrid) == "MetaformerSegformerS12PoolingSepConvDropPathRate01Plans"


def test_a_network_of_nnunet_is_planned_as_nnunet_plans_it(stock):
    """Levels, strides, anisotropic kernels, widths and parameters are those of nnU-Net's own plans for that patch."""
    stock = stock["3d_fullres"]
    _, ours = plan("nnunet:PlainConvUNet", patch_size=stock["patch_size"], gpu_memory_gb=1000)
    row, planned = ours.get_configuration("3d_fullres"), stock["architecture"]["arch_kwargs"]
    assert row.patch_size == stock["patch_size"]
    assert row.pool_op_kernel_sizes == planned["strides"]
    assert row.network_arch_init_kwargs["kernel_sizes"] == planned["kernel_sizes"]
    assert [1, 3, 3] in planned["kernel_sizes"], "the data is anisotropic"
    with torch.device("meta"):
        network = network_of(row, deep_supervision=True)
        theirs = get_network_from_plans(
            stock["architecture"]["network_class_name"], planned, stock["architecture"]["_kw_requires_import"], 1, 2,
            allow_init=False, deep_supervision=True,
        )  # fmt: skip
        shapes = {key: value.shape for key, value in network.network.state_dict().items()}
        assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
        image = torch.empty(1, 1, *row.patch_size)
        assert [each.shape for each in network(image)] == [each.shape for each in theirs(image)]
    assert all(value.requires_grad for value in network.parameters())
