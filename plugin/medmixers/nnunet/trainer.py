"""The trainer base: a subclass names a recipe and, to work on stock plans, a network. nnU-Net does the rest.

Six things differ from the stock trainer: the architecture in the plans, the optimizer and its schedule, the start
weights, the length of the run, that checkpoints are written whole or not at all, and glibc's allocator on a CPU.
Augmentation, loss and evaluation are nnU-Net's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from medmixers.bundle_runtime.allocator import keep_freed_memory
from medmixers.errors import InputError, end_in_one_line
from medmixers.files import written_whole
from medmixers.networks.weights import check_source, load_weights
from medmixers.nnunet.architecture import pairwise_excess, plans_architecture
from medmixers.nnunet.same_network import check_same_network, other_folds
from medmixers.nnunet.schedule import RecipeSchedule, build_optimizer
from medmixers.recipes import RECIPES

# Environment variable -> attribute of nnUNetTrainer. Unset keeps nnU-Net's own number.
RUN_LENGTH_VARIABLES = {
    "MEDMIXERS_EPOCHS": "num_epochs",
    "MEDMIXERS_ITERATIONS_PER_EPOCH": "num_iterations_per_epoch",
    "MEDMIXERS_VAL_ITERATIONS_PER_EPOCH": "num_val_iterations_per_epoch",
}
MINUTES_VARIABLE = "MEDMIXERS_MINUTES"
PRETRAINED_VARIABLE = "MEDMIXERS_PRETRAINED"


class nnUNetTrainerMedMixers(nnUNetTrainer):
    """Base of this package's trainers. A subclass sets class attributes and nothing else.

    Attributes:
        network_name: network to put into the plans; None keeps the plans' own network.
        network_options: options of that network.
        recipe: optimizer, learning rate, its schedule and weight decay; None keeps nnU-Net's own. The recipe's other
            fields (batch size, loss, augmentation, epochs) describe the paper's own loop and are not used.
        accumulate: False updates the weights after every batch of the plans. True accumulates as many batches per
            update as fill the recipe's batch.
        minutes: length of a run that is counted in minutes; None counts epochs.

    Environment: MEDMIXERS_EPOCHS, MEDMIXERS_ITERATIONS_PER_EPOCH and MEDMIXERS_VAL_ITERATIONS_PER_EPOCH change the
    length of a run (nnU-Net's own: 1000, 250, 50). MEDMIXERS_PRETRAINED, a file or "timm:NAME", gives start weights to
    the encoder of a MetaFormer. :func:`medmixers.networks.weights.load_weights` documents what it accepts, and the log
    reports what was loaded.
    """

    # Not `network`: nnUNetTrainer stores the module under that name.
    network_name: ClassVar[str | None] = None
    network_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    recipe: ClassVar[str | None] = None
    accumulate: ClassVar[bool] = False
    minutes: ClassVar[int | None] = None
    remedy = "Plan as then, or move the model's folder away"  # where a checkpoint has another network than the plans

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's signature
    ) -> None:
        end_in_one_line("medmixers")  # nnUNetv2_train is the main function of this process
        # First: a bad value must not create a folder.
        self.run_minutes = minutes_from_environment(self.minutes, trainer=type(self).__name__)
        run_length = run_length_from_environment()
        self.pretrained = pretrained_from_environment()
        super().__init__(self._with_network(plans, configuration, device), configuration, fold, dataset_json, device)
        for attribute, value in run_length.items():
            setattr(self, attribute, value)
        if self.recipe is not None:
            self.initial_lr = RECIPES[self.recipe].learning_rate
            self.weight_decay = RECIPES[self.recipe].weight_decay
        self.save_every = max(1, self.num_epochs // 20)  # nnU-Net's 50 of 1000, so a short run can resume too

    def _with_network(self, plans: dict[str, Any], configuration: str, device: torch.device) -> dict[str, Any]:
        """A copy of nnU-Net's plans whose ``configuration`` holds this trainer's network and a patch that fits it.

        nnU-Net saves these plans with the weights and rebuilds the network from them, so training, validation and
        prediction agree. Raises nnU-Net's RuntimeError for a configuration that the plans do not have, and InputError
        for too many tokens.
        """
        changed = deepcopy(plans)
        row = PlansManager(changed).get_configuration(configuration)
        if self.network_name is not None:
            architecture, patch_size = plans_architecture(
                self.network_name,
                patch_size=row.patch_size,
                pools=row.pool_op_kernel_sizes,
                options=self.network_options,
            )
            if excess := pairwise_excess(architecture, patch_size):
                raise InputError(f"{excess}; plan a smaller patch: medmixers nnunet plan ... --patch_size")
            changed["configurations"][configuration].update(architecture=architecture, patch_size=patch_size)
        return changed

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LRScheduler]:
        """The recipe's optimizer, and its learning rate over ``num_epochs``."""
        if self.recipe is None:
            return super().configure_optimizers()
        recipe = RECIPES[self.recipe]
        batches = 1
        if self.accumulate:
            wanted = recipe.batch_size * recipe.accumulate_batches
            batches = max(1, round(wanted / self.configuration_manager.batch_size))
        optimizer = build_optimizer(recipe, self.network.parameters(), accumulate=batches)
        return optimizer, RecipeSchedule(optimizer, recipe, self.num_epochs)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """As nnU-Net does. InputError: it was trained with another network or patch than this trainer makes."""
        if isinstance(filename_or_checkpoint, str):
            self._check_same_network(Path(filename_or_checkpoint))
        super().load_checkpoint(filename_or_checkpoint)

    def _check_same_network(self, checkpoint: Path) -> None:
        check_same_network(
            checkpoint, self.plans_manager.plans, self.configuration_name, owner="this run", remedy=self.remedy
        )

    def on_train_start(self) -> None:
        """Load the start weights of a new training, then start as nnU-Net does.

        nnU-Net then writes the plans of this run over those of the model's folder. InputError: a fold there was
        trained with another network or patch.
        """
        for checkpoint in other_folds(Path(self.output_folder_base), str(self.fold)):
            self._check_same_network(checkpoint)
        if not self.was_initialized:
            self.initialize()
        if self.pretrained and self.current_epoch == 0:
            report = load_weights(plain_network(self.network), self.pretrained, warm_start=True)
            self.print_to_log_file(f"start weights {self.pretrained}: {report}")
        super().on_train_start()
        # Not before: the processes that load data are started there and need no more memory than usual.
        if keep_freed_memory(self.device):
            self.print_to_log_file("glibc keeps freed memory now, which makes the steps faster")

    def save_checkpoint(self, filename: str) -> None:
        """As nnU-Net does, but whole or not at all: a kill or a full disk leaves the checkpoint of before."""
        if self.local_rank != 0 or self.disable_checkpointing:
            return super().save_checkpoint(filename)
        with written_whole(Path(filename)) as partial:
            super().save_checkpoint(str(partial))


def plain_network(network: nn.Module) -> nn.Module:
    """The module inside nnU-Net's wrappers for distributed and compiled training."""
    inner = network.module if isinstance(network, DistributedDataParallel) else network
    return inner._orig_mod if isinstance(inner, OptimizedModule) else inner


def run_length_from_environment() -> dict[str, int]:
    """Attributes of nnUNetTrainer that environment variables set.

    Raises:
        InputError: a value that is not a whole number of at least 1.
    """
    return {
        attribute: _positive_integer(variable, os.environ[variable])
        for variable, attribute in RUN_LENGTH_VARIABLES.items()
        if variable in os.environ
    }


def minutes_from_environment(default: int | None, *, trainer: str) -> int | None:
    """Length of a run in minutes; None for a trainer that counts epochs.

    Args:
        default: the trainer's own length.
        trainer: its name, for messages.

    Raises:
        InputError: a variable of the other kind of run is set, or a value that is not a whole number of at least 1.
    """
    foreign = [MINUTES_VARIABLE] if default is None else list(RUN_LENGTH_VARIABLES)
    for variable in foreign:
        if variable in os.environ:
            kind = "epochs, not minutes" if default is None else f"minutes ({MINUTES_VARIABLE}), not epochs"
            raise InputError(f"{variable} is set, but {trainer} counts {kind}; unset {variable}")
    if default is None or MINUTES_VARIABLE not in os.environ:
        return default
    return _positive_integer(MINUTES_VARIABLE, os.environ[MINUTES_VARIABLE])


def pretrained_from_environment() -> str:
    """Source of the start weights, "" for none. Raises InputError for a missing file or one without weights."""
    source = os.environ.get(PRETRAINED_VARIABLE, "")
    try:
        if source:
            check_source(source)
    except (ValueError, OSError) as error:
        raise InputError(f"{PRETRAINED_VARIABLE}: {error}") from None
    return source


def _positive_integer(variable: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise InputError(f"{variable} must be a whole number of at least 1, got {text!r}")
    return int(text)
