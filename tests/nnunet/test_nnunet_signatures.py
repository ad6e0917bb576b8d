"""What this package relies on in nnU-Net. A new nnunetv2 that changes it fails here first, by name."""

import inspect

import pytest
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

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
    get_network_from_plans: [
        "arch_class_name", "arch_kwargs", "arch_kwargs_req_import", "input_channels", "output_channels",
        "allow_init", "deep_supervision",
    ],
    PlansManager.get_configuration: ["self", "configuration_name"],
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
