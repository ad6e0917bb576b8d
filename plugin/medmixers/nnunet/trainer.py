"""The trainer base: a subclass names a network and a recipe, nnU-Net does the rest.

Only data differ from the stock trainer: the architecture in the plans, the optimizer and its schedule, the
length of the run. Patch and batch size, augmentation, loss and evaluation are nnU-Net's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from medmixers.nnunet.architecture import plans_architecture
from medmixers.nnunet.schedule import RecipeSchedule, build_optimizer
from medmixers.recipes import RECIPES

# Environment variable -> attribute of nnUNetTrainer. Unset keeps nnU-Net's own number.
RUN_LENGTH_VARIABLES = {
    "MEDMIXERS_EPOCHS": "num_epochs",
    "MEDMIXERS_ITERATIONS_PER_EPOCH": "num_iterations_per_epoch",
    "MEDMIXERS_VAL_ITERATIONS_PER_EPOCH": "num_val_iterations_per_epoch",
}


class nnUNetTrainerMedMixers(nnUNetTrainer):
    """Base of this package's trainers. A subclass sets class attributes and nothing else.

    ``recipe`` gives optimizer, learning rate, its schedule and weight decay; the recipe's other fields (batch
    size, loss, augmentation, epochs) describe the paper's own loop, and nnU-Net's take their place here. The
    environment variables MEDMIXERS_EPOCHS, MEDMIXERS_ITERATIONS_PER_EPOCH and
    MEDMIXERS_VAL_ITERATIONS_PER_EPOCH shorten a run (nnU-Net's own: 1000, 250, 50).
    """

    # Not `network`: nnUNetTrainer stores the module under that name.
    network_name: ClassVar[str]
    network_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    recipe: ClassVar[str]
    # Option that gets the plan's patch size: nnU-Net pads smaller images to it, so every tile has that size.
    patch_size_option: ClassVar[str | None] = None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's signature
    ) -> None:
        run_length = run_length_from_environment()  # first: a bad value must leave no folder behind
        super().__init__(
            self._with_network(plans, configuration),
            configuration,
            fold,
            dataset_json,
            device,
        )
        for attribute, value in run_length.items():
            setattr(self, attribute, value)
        recipe = RECIPES[self.recipe]
        self.initial_lr = recipe.learning_rate
        self.weight_decay = recipe.weight_decay
        self.enable_deep_supervision = False
        self.save_every = max(1, self.num_epochs // 20)  # nnU-Net's 50 of 1000, so a short run can resume too

    @classmethod
    def _with_network(cls, plans: dict[str, Any], configuration: str) -> dict[str, Any]:
        """A copy of nnU-Net's plans whose ``configuration`` holds this trainer's network.

        nnU-Net saves the plans it was given beside the weights and rebuilds the network from them, so
        training, validation and prediction agree. Raises nnU-Net's RuntimeError for a configuration that the
        plans do not have.
        """
        changed = deepcopy(plans)
        patch_size = [int(size) for size in PlansManager(changed).get_configuration(configuration).patch_size]
        options = dict(cls.network_options)
        if cls.patch_size_option is not None:
            options[cls.patch_size_option] = patch_size
        changed["configurations"][configuration]["architecture"] = plans_architecture(
            cls.network_name, spatial_dims=len(patch_size), **options
        )
        return changed

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, RecipeSchedule]:
        """The recipe's optimizer, and its learning rate over ``num_epochs``."""
        recipe = RECIPES[self.recipe]
        optimizer = build_optimizer(recipe, self.network.parameters())
        return optimizer, RecipeSchedule(optimizer, recipe, self.num_epochs)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Nothing to switch: the networks return one tensor. Stock code sets ``network.decoder`` here."""


def run_length_from_environment() -> dict[str, int]:
    """Attributes of nnUNetTrainer that environment variables set.

    Raises:
        ValueError: a value that is no whole number of at least 1.
    """
    return {
        attribute: _positive_integer(variable, os.environ[variable])
        for variable, attribute in RUN_LENGTH_VARIABLES.items()
        if variable in os.environ
    }


def _positive_integer(variable: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"{variable} must be a whole number of at least 1, got {text!r}")
    return int(text)
