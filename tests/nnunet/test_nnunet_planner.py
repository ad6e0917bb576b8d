"""``medmixers nnunet plan`` beside stock plans: patches, strides, memory, shared data, refusals. No training."""

import json

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from medmixers.nnunet.memory import training_memory
from medmixers.nnunet.planner import default_plans_name, plan_network

META = "metaformer_segformer_s12"
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


def write_fingerprint(folder, shape, spacing):
    row = {
        "spacings": [spacing] * 40,
        "shapes_after_crop": [shape] * 40,
        "median_relative_size_after_cropping": 1.0,
        "foreground_intensity_properties_per_channel": {},
    }
    (folder / "dataset_fingerprint.json").write_text(json.dumps(row))


def plans(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def plan(network, **options):
    """Plan, and read what was written as nnU-Net reads it."""
    text = plan_network(900, network, **options)
    return text, PlansManager(text.splitlines()[0])


def test_plans_share_the_stock_data_and_fit_the_strides_and_the_memory(dataset):
    plan_experiment_dataset(900)
    stock = plans(dataset, "nnUNetPlans")["configurations"]
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
        (dataset / f"nnUNetPlans_{name}").mkdir()
    (dataset / "nnUNetPlans_3d_lowres").mkdir()
    assert "preprocess first" not in plan("token_unet", gpu_memory_gb=4)[0]


def network_of(row, **options):
    from medmixers.nnunet.architecture import create_network_from_plans

    return create_network_from_plans(1, 2, **row.network_arch_init_kwargs, **options)


def test_other_spacing_gets_data_of_its_own(dataset):
    plan_experiment_dataset(900)
    write_fingerprint(dataset, [60, 256, 256], [3.0, 0.9, 0.9])
    _, ours = plan(META, **TINY, mixer="pooling", plans_name="Mine")
    assert ours.get_configuration("3d_fullres").data_identifier == "Mine_3d_fullres"


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
        (META, {"mixer": "global_attention", "stem_stride": 1, "patch_size": (512, 512)}, "has 262144 in stage 1"),
        (META, {"mixer": "conv", "gpu_memory_gb": 0.5}, r"does not fit into 0.5 GB: a patch of .* tokens in the"),
        ("token_unet", {"patch_size": (256, 256, 256)}, r"does not fit into 8 GB: a patch of 256 x 256 x 256 needs"),
        ("metaformer_s12", {}, "'metaformer_s12' is no segmentation network; valid: "),
        ("token_unet", {"strides": 2}, "has no option 'strides'; valid: channels"),
        ("token_unet", {"plans_name": "nnUNetPlans"}, "plans_name must be letters and digits and not nnUNetPlans"),
        ("token_unet", {"plans_name": "a__b"}, "plans_name must be letters and digits"),
        ("token_unet", {"gpu_memory_gb": 0}, "gpu_memory_gb must be positive, got 0"),
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
    (dataset / "dataset_fingerprint.json").unlink()
    with pytest.raises(ValueError, match=r"^dataset 900: Fingerprint missing for this dataset"):
        plan_network(900, "token_unet")


def test_names_tell_networks_apart():
    assert default_plans_name("token_unet", {}) == "TokenUnetPlans"
    options = {"mixer": "grouped_conv", "kernel_size": 5}
    assert default_plans_name(META, options) == "MetaformerSegformerS12GroupedConvKernelSize5Plans"
    hybrid = {"mixer": ("pooling", "sep_conv"), "drop_path_rate": 0.1}
    assert default_plans_name(META, hybrid) == "MetaformerSegformerS12PoolingSepConvDropPathRate01Plans"
