"""Handlers of MONAI's engines that the configs name: seeds, loss check, state, early stop, progress."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from contextlib import ExitStack
from math import isfinite
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from ignite import distributed
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from monai.engines import IterationEvents
from monai.handlers import CheckpointLoader, EarlyStopHandler, StatsHandler
from monai.transforms import Randomizable
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from medmixers.bundle_runtime.checkpoint_files import WholeFiles
from medmixers.bundle_runtime.stack import one_line_in_command
from medmixers.errors import STOPS, InputError
from medmixers.factory import load_start_weights
from medmixers.files import delete_leftovers, held


def image_metadata(batch: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metadata of the images of a batch, as MONAI's savers of metrics and classes take it."""
    return [item["image"].meta for item in batch]


class Stats(StatsHandler):
    """MONAI's log of an engine, without a traceback where a person stops the run or an input error ends it."""

    def exception_raised(self, _engine: Engine, e: BaseException) -> None:
        """Hand a stop on; log anything else as MONAI does."""
        if isinstance(e, (*STOPS, SystemExit)):
            raise e
        super().exception_raised(_engine, e)


class EpochSeeds:
    """Give every epoch its own seed, so that a resumed training draws what an uninterrupted one draws.

    Args:
        seed: of the training; ranks must have different ones.
        transforms: random transforms, seeded too.
    """

    def __init__(self, *, seed: int, transforms: Randomizable) -> None:
        self.seed, self.transforms = seed, transforms

    def attach(self, engine: Engine) -> None:
        """engine: the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Set the seed of the epoch that starts."""
        seed = self.seed + 1000 * engine.state.epoch
        torch.manual_seed(seed)
        self.transforms.set_random_state(seed)


class StartWeights:
    """Load weights before a training starts. MONAI Label adds a loader of its own only where it sees none of MONAI's.

    Args:
        path: file of a flat state dict; None loads nothing.
        network: that takes it.
        device: where it is loaded to.
        adapt: load what fits after :func:`medmixers.factory.load_start_weights`, and print its report.
    """

    def __init__(self, *, path: str | None, network: Any, device: Any, adapt: bool = False) -> None:
        self.path, self.network, self.device, self.adapt = path, network, device, adapt

    def attach(self, engine: Engine) -> None:
        """engine: the trainer."""
        if self.path is not None and self.adapt:
            engine.add_event_handler(Events.STARTED, self._load_adapted)
        elif self.path is not None:
            CheckpointLoader(self.path, {"model": self.network}, map_location=self.device).attach(engine)

    def _load_adapted(self, _engine: Engine) -> None:
        report = load_start_weights(_plain(self.network), str(self.path))
        if distributed.get_rank() == 0:
            print(f"start weights {self.path}: {report}", flush=True)


def _plain(network: Any) -> Any:
    """The network inside the wrapper of distributed training."""
    return getattr(network, "module", network)


class LossCheck:
    """Raise InputError where a loss is NaN or infinite, before it changes the weights and they are saved."""

    def attach(self, engine: Engine) -> None:
        """engine: MONAI's SupervisedTrainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self)

    @one_line_in_command()
    def __call__(self, engine: Engine) -> None:
        """Look at the loss of this iteration."""
        state = engine.state
        loss = float(state.output["loss"].detach())  # type: ignore[index]
        if not isfinite(loss):
            iteration = (state.iteration - 1) % (state.epoch_length or 1) + 1
            raise InputError(
                f"the loss is {loss} in epoch {state.epoch}, iteration {iteration} of {state.epoch_length}: look for "
                "NaN in the images (`medmixers dataset check DATA` reads every voxel), or lower --learning_rate"
            )


class GradientClipping:
    """Clip the gradient of all parameters together before each update, without the scale of a GradScaler.

    Args:
        max_norm: largest Euclidean norm.
    """

    def __init__(self, *, max_norm: float) -> None:
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """engine: MONAI's SupervisedTrainer."""
        engine.add_event_handler(Events.STARTED, self._begin)

    def _begin(self, engine: Any) -> None:
        parameters = list(engine.network.parameters())

        def clip(*_: Any) -> None:
            torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)

        # the optimizer steps after a GradScaler has divided by its scale, and once per accumulated batch
        engine.optimizer.register_step_pre_hook(clip)


class WeightAverage:
    """Keep the exponential moving average of the weights (EMA); validation sees it, and its best is saved.

    The average begins at the weights before the first update, and follows each update and the buffers too, as in timm.

    Args:
        network: that is trained.
        validator: the engine that validates, on the average.
        decay: what stays of the average at each update, below 1; 0: no average.
    """

    def __init__(self, *, network: Any, validator: Engine, decay: float) -> None:
        if not 0 <= decay < 1:
            raise InputError(f"ema_decay must be at least 0 and below 1, got {decay!r}")
        self.model, self.validator, self.decay = _plain(network), validator, decay
        self.average: Any = None

    def attach(self, engine: Engine) -> None:
        """engine: MONAI's SupervisedTrainer, with its start weights loaded by a handler before this one."""
        if self.decay > 0:
            engine.add_event_handler(Events.STARTED, self._begin)
            self.validator.add_event_handler(Events.STARTED, self._exchange)
            self.validator.add_event_handler(Events.COMPLETED, self._exchange)

    def _begin(self, engine: Any) -> None:
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(self.decay), use_buffers=True)
        self.average.update_parameters(self.model)
        engine.optimizer.register_step_post_hook(lambda *_: self.average.update_parameters(self.model))

    @torch.no_grad()
    def _exchange(self, _engine: Engine) -> None:
        """Weights for average, and back."""
        tensors = self.model.state_dict().values(), self.average.module.state_dict().values()
        for own, mean in zip(*tensors, strict=True):
            kept = own.clone()
            own.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """The average; {} without one."""
        return {} if self.average is None else self.average.state_dict()

    @one_line_in_command()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average. InputError: the training that saved it has another ``ema_decay``."""
        if bool(state) != (self.average is not None):
            began = "with an average of the weights" if state else "without an average of the weights (--ema_decay 0)"
            raise InputError(f"resume_ckpt: this training began {began}; got --ema_decay {self.decay:g}")
        if state:
            self.average.load_state_dict(state)


class TrainingState:
    """Save the state of a training as ``resume_checkpoint_epoch=N.pt``, and go on from such a file.

    Put it behind the handler that validates: the state holds which weights were the best. Each start of a training
    keeps its last two states: ignite removes an old one before it writes the new one. While the training runs, it holds
    the folder: a second training there ends in one line.

    Args:
        save_dir: folder of the states.
        interval: epochs between two states.
        resume_ckpt: state to go on from, or None.
        device: where it is loaded to.
        network: saved as "model".
        optimizer: saved as "optimizer".
        lr_scheduler: saved as "lr_scheduler".
        best_weights: saver of the best weights, saved as "best_weights".
        average: of the weights, attached here and saved as "average".
    """

    def __init__(
        self,
        *,
        save_dir: str,
        interval: int,
        resume_ckpt: str | None,
        device: Any,
        network: Any,
        optimizer: Any,
        lr_scheduler: Any,
        best_weights: Any,
        average: Any,
    ) -> None:
        self.save_dir, self.interval = save_dir, interval
        self.resume_ckpt, self.device = resume_ckpt, device
        self.parts = {"model": network, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
        self.best_weights, self.average = best_weights, average
        self.holding = ExitStack()

    def attach(self, engine: Engine) -> None:
        """engine: the trainer, which is saved too."""
        state = {**self.parts, "trainer": engine, "best_weights": self.best_weights, "average": self.average}
        self.average.attach(engine)
        engine.add_event_handler(Events.STARTED, self.hold)
        if self.resume_ckpt is not None:
            CheckpointLoader(self.resume_ckpt, state, map_location=self.device).attach(engine)
        saver = Checkpoint(
            state,
            WholeFiles(self.save_dir),
            filename_prefix="resume",
            score_function=attrgetter("state.epoch"),
            score_name="epoch",
            n_saved=2,
        )
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), saver)
        engine.add_event_handler(Events.COMPLETED, self.holding.close)

    @one_line_in_command()
    def hold(self, engine: Engine) -> None:
        """Take the folder, and delete what a killed training left there."""
        folder = Path(self.save_dir)
        if distributed.get_rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            if self.holding.enter_context(held(folder / ".training.lock", folder)):
                delete_leftovers(folder)
            atexit.register(self.holding.close)  # an exception skips COMPLETED


class EarlyStop:
    """Stop a training whose metric has not risen for some validations.

    Args:
        validator: the engine that measures.
        metric: name of its metric.
        patience: validations to wait.
    """

    def __init__(self, *, validator: Engine, metric: str, patience: int) -> None:
        self.validator, self.metric, self.patience = validator, metric, patience

    def attach(self, engine: Engine) -> None:
        """engine: the trainer, which is stopped."""
        EarlyStopHandler(self.patience, self.score, trainer=engine).attach(self.validator)

    def score(self, engine: Engine) -> float:
        """The validator's metric."""
        return float(engine.state.metrics[self.metric])


class Progress:
    """A progress bar of the cases on stderr; none where stderr is not a terminal.

    Args:
        description: what is done to each case ("predict").
    """

    def __init__(self, description: str) -> None:
        self.description = description
        self.bar: Any = None

    def attach(self, engine: Engine) -> None:
        """engine: an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.stop)

    def start(self, engine: Engine) -> None:
        """Show the bar: the first case may take minutes."""
        from tqdm import tqdm

        self.bar = tqdm(total=engine.state.epoch_length, desc=self.description, unit="batch", disable=None)

    def step(self, engine: Engine) -> None:
        """Count a batch."""
        self.bar.update()

    def stop(self, engine: Engine) -> None:
        """Leave the bar as it is."""
        self.bar.close()
