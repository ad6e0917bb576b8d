"""What this package relies on in nnU-Net. A new nnunetv2 that changes it fails here first, by name."""

import inspect
from pathlib import Path

import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiment_dataset
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from medmixers.nnunet.architecture import NETWORK_CLASS_NAME
from medmixers.nnunet.trainer_classes import TRAINERS

PINNED = {
    nnUNetTrainer.__init__: ["self", "plans", "configuration", "fold", "dataset_json", "device"],
    nnUNetTrainer.build_network_architecture: [
        "plans_manager", "configuration_manager", "num_input_channels", "num_output_channels",
        "enable_deep_supervision",
    ],
    nnUNetTrainer.configure_optimizers: ["self"],
    nnUNetTrainer.set_deep_supervision_enabled: ["self", "enabled"],
    nnUNetTrainer._get_deep_supervision_scales: ["self"],
    nnUNetTrainer._do_i_compile: ["self"],
    nnUNetTrainer.load_checkpoint: ["self", "filename_or_checkpoint"],
    nnUNetTrainer.save_checkpoint: ["self", "filename"],
    nnUNetPredictor.initialize_from_trained_model_folder: [
        "self", "model_training_output_dir", "use_folds", "checkpoint_name",
    ],
    nnUNetPredictor.manual_initialization: [
        "self", "network", "plans_manager", "configuration_manager", "parameters", "dataset_json", "trainer_name",
        "inference_allowed_mirroring_axes",
    ],
    nnUNetPredictor.predict_logits_from_preprocessed_data: ["self", "data"],
    nnUNetPredictor.predict_single_npy_array: [
        "self", "input_image", "image_properties", "segmentation_previous_stage", "output_file_truncated",
        "save_or_return_probabilities",
    ],
    convert_predicted_logits_to_segmentation_with_correct_shape: [
        "predicted_logits", "plans_manager", "configuration_manager", "label_manager", "properties_dict",
        "return_probabilities", "num_threads_torch",
    ],
    DefaultPreprocessor.run_case: [
        "self", "image_files", "seg_file", "plans_manager", "configuration_manager", "dataset_json",
    ],
    get_network_from_plans: [
        "arch_class_name", "arch_kwargs", "arch_kwargs_req_import", "input_channels", "output_channels",
        "allow_init", "deep_supervision",
    ],
    PlansManager.get_configuration: ["self", "configuration_name"],
    nnUNetTrainer.initialize: ["self"],
    nnUNetTrainer.on_train_start: ["self"],
    nnUNetTrainer.train_step: ["self", "batch"],
    load_pretrained_weights: ["network", "fname", "verbose"],
    get_pool_and_conv_props: ["spacing", "patch_size", "min_feature_map_size", "max_numpool"],
    ExperimentPlanner.__init__: [
        "self", "dataset_name_or_id", "gpu_memory_target_in_gb", "preprocessor_name", "plans_name",
        "overwrite_target_spacing", "suppress_transpose",
    ],
    ExperimentPlanner.static_estimate_VRAM_usage: [
        "patch_size", "input_channels", "output_channels", "arch_class_name", "arch_kwargs", "arch_kwargs_req_import",
    ],
    ExperimentPlanner.get_plans_for_configuration: [
        "self", "spacing", "median_shape", "data_identifier", "approximate_n_voxels_dataset", "_cache",
    ],
    plan_experiment_dataset: [
        "dataset_id", "experiment_planner_class", "gpu_memory_target_in_gb", "preprocess_class_name",
        "overwrite_target_spacing", "overwrite_plans_name",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("function", "names"), PINNED.items(), ids=lambda value: getattr(value, "__qualname__", ""))
def test_nnunet_still_has_the_signature_we_build_on(function, names):
    assert list(inspect.signature(function).parameters) == names


@pytest.mark.parametrize("trainer", TRAINERS.values(), ids=TRAINERS)
def test_our_constructors_have_nnunets_signature(trainer):
    # nnU-Net looks up each parameter's name among its own locals: another one is a KeyError in any run.
    def plain(function):
        return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]

    assert plain(trainer.__init__) == plain(nnUNetTrainer.__init__)
    assert trainer.build_network_architecture is nnUNetTrainer.build_network_architecture
    assert trainer.train_step is nnUNetTrainer.train_step


def test_the_attributes_we_set_exist():
    source = inspect.getsource(nnUNetTrainer.__init__)
    for name in (
        "initial_lr", "weight_decay", "num_epochs", "num_iterations_per_epoch",
        "num_val_iterations_per_epoch", "enable_deep_supervision", "save_every",
    ):  # fmt: skip
        assert f"self.{name} = " in source


def test_deep_supervision_is_switched_and_weighted_as_we_build_on():
    assert "mod.decoder.deep_supervision = enabled" in inspect.getsource(nnUNetTrainer.set_deep_supervision_enabled)
    assert "weights[-1] = 0" in inspect.getsource(nnUNetTrainer._build_loss)
    assert "'.seg_layers.'" in inspect.getsource(load_pretrained_weights)


def test_without_this_package_the_error_is_nnunets():
    # What a colleague sees who predicts with our plans and has not installed the package; two guides quote it.
    path = NETWORK_CLASS_NAME.replace("medmixers", "a_package_that_is_not_there", 1)
    with pytest.warns(UserWarning, match="not found"), pytest.raises(ImportError) as caught:
        get_network_from_plans(path, {}, [], 1, 2)
    for guide in ("nnunet.md", "troubleshooting.md"):
        text = (Path(__file__).parents[2] / "plugin" / "docs" / guide).read_text()
        assert str(caught.value) in " ".join(text.split())
