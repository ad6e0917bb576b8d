"""Trainers whose run is given in minutes: what they change for a short run on a CPU, and that they say why."""

from __future__ import annotations

import os
import time
from copy import deepcopy
from math import prod
from typing import Any, ClassVar

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.optim.lr_scheduler import LRScheduler

from medmixers.errors import InputError
from medmixers.nnunet.schedule import learning_rate_at
from medmixers.nnunet.trainer import nnUNetTrainerMedMixers
from medmixers.recipes import RECIPES

EPOCHS = 10  # of equal time: nnU-Net logs, draws and saves once per epoch
VALIDATION_BATCHES = 10  # of nnU-Net's 50, once per epoch
FOREGROUND = 0.67  # share of the patches that are centred on a labelled voxel; nnU-Net's is 0.33
TIMED_STEPS = 4  # the first one is slower than the others and does not count
RATES = 1000  # steps of the learning rate's curve over a run
# Voxels of a batch per minute of training on a CPU: 2 patches of 48 x 64 x 48 for 10 minutes. nnU-Net plans for a GPU;
# its patches leave too few steps.
VOXELS_PER_MINUTE = 2 * 48 * 64 * 48 / 10
LOADERS_VARIABLE = "nnUNet_n_proc_DA"
SMALLEST_EDGE, EDGE_STEP = 16, 8
SMALLEST_BATCH = 2


class nnUNetTrainerTimed(nnUNetTrainerMedMixers):
    """Base of the trainers whose names end in the length of their run, for example ``_10minutes``.

    The minutes hold the training and its online validation. The start and the final validation come in addition. The
    first steps are timed, and each epoch gets as many iterations as fit into its share of the time that is left. A
    resumed run uses the time that is left. Mirroring is off, in training and in prediction.

    Attributes:
        minutes: length of the run, unless MEDMIXERS_MINUTES gives another.

    Raises:
        InputError: several processes, or what :class:`nnUNetTrainerMedMixers` refuses.
    """

    recipe = "short_run"
    minutes: ClassVar[int | None] = 10
    remedy = (
        "The minutes and the device choose the patch and the strides: set MEDMIXERS_MINUTES and -device as then "
        "(training_log says both), or move the model's folder away"
    )

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  nnU-Net's signature
    ) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise InputError(f"{type(self).__name__} trains in one process; call nnUNetv2_train without -num_gpus")
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.save_every = EPOCHS, 1
        self.num_val_iterations_per_epoch = VALIDATION_BATCHES
        self.oversample_foreground_percent = FOREGROUND
        self.deadline: float | None = None
        self.step_seconds = 0.0
        self.train_start = self.train_end = 0.0
        self.steps_done = 0

    @property
    def length(self) -> int:
        """Minutes of this run."""
        return int(self.run_minutes or 0)  # never None here: the class has ``minutes``

    def _with_network(self, plans: dict[str, Any], configuration: str, device: torch.device) -> dict[str, Any]:
        """On a CPU, the batch of the plans is first made as small as the minutes ask for."""
        changed = deepcopy(plans)
        row = PlansManager(changed).get_configuration(configuration)
        if device.type == "cpu":
            batch, patch = smaller_batch(row.batch_size, row.patch_size, voxels=VOXELS_PER_MINUTE * self.length)
            changed["configurations"][configuration].update(batch_size=batch, patch_size=patch)
        self.planned = _batch_text(row.batch_size, row.patch_size)
        return super()._with_network(changed, configuration, device)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, Any, Any, None]:
        """As nnU-Net's nnUNetTrainerNoMirroring."""
        rotation, dummy_2d, patch, _ = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, patch, None

    def get_dataloaders(self) -> tuple[Any, Any]:
        """As nnU-Net's; on a CPU in this process, because others would compete with the network for the cores."""
        if self.device.type == "cpu":
            os.environ.setdefault(LOADERS_VARIABLE, "0")
        return super().get_dataloaders()

    def on_train_start(self) -> None:
        """Start as nnU-Net does, then log what was chosen and why."""
        super().on_train_start()
        self.print_to_log_file("\n".join(self.choices()), add_timestamp=False)

    def choices(self) -> list[str]:
        """What differs from nnU-Net's own training, with the reason, one line each."""
        row, recipe = self.configuration_manager, RECIPES[str(self.recipe)]
        batch = _batch_text(row.batch_size, row.patch_size)
        smaller = f" instead of {self.planned}, so that there are enough steps" if batch != self.planned else ""
        return [
            f"A run of {self.length} minutes on {self.device}, {self.num_epochs} epochs of equal time:",
            f"- {batch}{smaller}",
            f"- {recipe.optimizer}, learning rate {recipe.learning_rate} after a warm-up over a tenth of the run, then "
            "a cosine: SGD learns small structures too late",
            f"- {FOREGROUND:.0%} of the patches are centred on a labelled voxel, for the sake of small structures",
            "- no mirroring: few steps do not learn all the mirror images, and prediction without it is faster",
        ]

    def on_train_epoch_start(self) -> None:
        """Choose the number of iterations of this epoch from the time that is left."""
        super().on_train_epoch_start()
        now = time.monotonic()
        if self.deadline is None:
            self.deadline = now + 60 * self.length - self._logged_seconds()
            self._time_steps()
            between = 0.0
        else:
            between = now - self.train_end  # validation, checkpoint and figure of the last epoch
        self.train_start = time.monotonic()
        share = (self.deadline - self.train_start) / (self.num_epochs - self.current_epoch)
        self.num_iterations_per_epoch = max(1, round((share - between) / self.step_seconds))
        self.print_to_log_file(f"{self.num_iterations_per_epoch} iterations of about {self.step_seconds:.2f} s")
        self.steps_done = 0

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LRScheduler]:
        """The recipe's, with a learning rate per step: a short run has too few epochs to change it per epoch."""
        optimizer, schedule = super().configure_optimizers()
        optimizer.register_step_pre_hook(self._set_rate)
        return optimizer, schedule

    def _set_rate(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        share = min(1, self.steps_done / self.num_iterations_per_epoch)
        progress = (self.current_epoch + share) / self.num_epochs
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(RECIPES[str(self.recipe)], int(progress * RATES), RATES)
        self.steps_done += 1

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """As nnU-Net's; notes how long a step took, data loading included."""
        self.train_end = time.monotonic()
        self.step_seconds = (self.train_end - self.train_start) / len(train_outputs)
        super().on_train_epoch_end(train_outputs)

    def _time_steps(self) -> None:
        """Train a few steps, which belong to no epoch, for the first estimate of the seconds per step."""
        for step in range(TIMED_STEPS):
            if step == 1:
                start = time.monotonic()
            self.train_step(next(self.dataloader_train))
        self.step_seconds = (time.monotonic() - start) / (TIMED_STEPS - 1)

    def _logged_seconds(self) -> float:
        """Duration of the epochs of the run that is resumed; 0 for a new run."""
        ends = self.logger.get_value("epoch_end_timestamps", step=None)
        starts = self.logger.get_value("epoch_start_timestamps", step=None)
        return float(sum(end - start for start, end in zip(starts, ends, strict=False)))


def smaller_batch(batch_size: int, patch_size: list[int], *, voxels: float) -> tuple[int, list[int]]:
    """The largest batch of at most ``voxels`` that is no larger than the given one, and its patch size.

    First the number of patches shrinks, to not less than 2. Then the longest edge of the patch shrinks by 8 voxels, to
    not less than 16, again and again.
    """
    batch = max(min(batch_size, SMALLEST_BATCH), min(batch_size, int(voxels / prod(patch_size))))
    patch = list(map(int, patch_size))
    while batch * prod(patch) > voxels and max(patch) > SMALLEST_EDGE:
        longest = patch.index(max(patch))
        patch[longest] = max(SMALLEST_EDGE, (patch[longest] - 1) // EDGE_STEP * EDGE_STEP)
    return batch, patch


def _batch_text(batch_size: int, patch_size: list[int]) -> str:
    return f"batches of {batch_size} patches of {' x '.join(map(str, patch_size))}"
