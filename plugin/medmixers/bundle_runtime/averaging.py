"""Predictions averaged over mirrored copies of the image, and over several models: in inference and evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from itertools import combinations
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.inferers import Inferer
from torch import Tensor, nn

from medmixers.bundle_runtime.options import ensemble_files
from medmixers.checkpoints import read_weights
from medmixers.errors import InputError

SLAB = 2**26  # bytes that are averaged at a time


class AveragedPredictions:
    """A handler that makes an evaluator average, as nnU-Net does. Its inferer stays the one of each single prediction.

    Mirrored copies: the mean of their logits, window by window (nnU-Net's test-time augmentation). Models: the mean of
    their probabilities (``nnUNetv2_ensemble``). The evaluator still gives logits, of these probabilities.

    Args:
        spatial_dims: of the network.
        sigmoid: whether the logits are of labels that may overlap; else their softmax is taken.
        use_mirroring: predict each image, and its mirror images along all combinations of ``mirror_axes``.
        mirror_axes: spatial axes of the network's input, from 0: x, y, z.
        ensemble: files of weights, which replace the network's own: a list, or text with commas. Empty: no ensemble.

    Raises:
        InputError: the axes are not those of the network, or ``ensemble`` names no files.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        sigmoid: bool,
        use_mirroring: bool = False,
        mirror_axes: Sequence[int] = (),
        ensemble: str | Sequence[str] = (),
    ) -> None:
        axes = tuple(mirror_axes)
        if use_mirroring and (not axes or len(set(axes)) < len(axes) or not set(axes) <= set(range(spatial_dims))):
            valid = f"different axes from 0 to {spatial_dims - 1}, for example [0]"
            raise InputError(f"--mirror_axes must list {valid}, got {list(axes)}")
        self.sigmoid = sigmoid
        self.mirror_axes = axes if use_mirroring else ()
        self.files = ensemble_files(ensemble)

    def attach(self, engine: Engine) -> None:
        """engine: MONAI's SupervisedEvaluator."""
        engine.add_event_handler(Events.STARTED, self.start)

    def start(self, engine: Any) -> None:
        """Load the models, and put the averages around the evaluator's inferer."""
        if isinstance(engine.inferer, AveragingInferer):  # a second run
            return
        models = [_loaded(engine.network, path) for path in self.files]
        engine.inferer = AveragingInferer(
            engine.inferer, mirror_axes=self.mirror_axes, models=models, sigmoid=self.sigmoid
        )
        over = []
        if self.mirror_axes:
            over.append(f"{2 ** len(self.mirror_axes)} mirrored copies (axes {list(self.mirror_axes)})")
        if models:
            over.append(f"{len(models)} models")
        print(f"medmixers: note: each prediction is a mean over {' and '.join(over)}", flush=True)


class AveragingInferer(Inferer):
    """An inferer whose logits are averaged.

    Args:
        inferer: of a single prediction.
        mirror_axes: spatial axes; empty for no mirroring.
        models: networks to use instead of the one that is handed over; empty for that one.
        sigmoid: as :class:`AveragedPredictions` has it.
    """

    def __init__(
        self, inferer: Inferer, *, mirror_axes: Sequence[int], models: Sequence[nn.Module], sigmoid: bool
    ) -> None:
        super().__init__()
        self.inferer = inferer
        self.mirror_axes = tuple(mirror_axes)
        self.models = list(models)
        self.sigmoid = sigmoid

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """inputs: (B, C, *spatial) -> logits, (B, K, *spatial) or (B, K)."""
        each = (self._logits(inputs, model, *args, **kwargs) for model in self.models or [network])
        return next(each) if len(self.models) < 2 else mean_as_logits(each, len(self.models), sigmoid=self.sigmoid)

    def _logits(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        predict = partial(mirrored_mean, network, self.mirror_axes) if self.mirror_axes else network
        logits: Tensor = self.inferer(inputs, predict, *args, **kwargs)
        return logits


def mirrored_mean(network: Any, axes: Sequence[int], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Mean of the logits of an image and its mirror images, each mirrored back.

    Args:
        network: (B, C, *spatial) -> (B, K, *spatial) or (B, K).
        axes: spatial axes; all of their combinations are mirrored, 2 ** len(axes) images.
        x: (B, C, *spatial).
        args, kwargs: handed to the network.
    """
    total = network(x, *args, **kwargs).float()
    chosen = [each for count in range(1, len(axes) + 1) for each in combinations([axis + 2 for axis in axes], count)]
    for flipped in chosen:
        logits = network(torch.flip(x, flipped), *args, **kwargs).float()
        total = total + (torch.flip(logits, flipped) if logits.ndim == x.ndim else logits)
    return total / (len(chosen) + 1)


def mean_as_logits(logits: Iterable[Tensor], count: int, *, sigmoid: bool) -> Tensor:
    """Logits whose softmax, or sigmoid, is the mean of the probabilities of ``count`` predictions.

    Two of them are held at a time. Logits of images in single precision are replaced, wherever they lie.

    Args:
        logits: the predictions one after another, (B, K, ...) each.
        count: how many.
        sigmoid: as :class:`AveragedPredictions` has it.
    """
    mean: Tensor | None = None
    for each in logits:
        is_replaced = each.dtype == torch.float32 and each.ndim > 2
        summed = each if is_replaced else torch.empty_like(each, dtype=torch.float32)
        for rows in _slabs(each):
            part = each[rows].float()
            probabilities = (torch.sigmoid(part) if sigmoid else torch.softmax(part, dim=1)) / count
            summed[rows] = probabilities if mean is None else mean[rows] + probabilities
        mean = summed
    if mean is None:
        raise ValueError("there are no logits to average")
    for rows in _slabs(mean):
        mean[rows] = torch.logit(mean[rows]) if sigmoid else torch.log(mean[rows])
    return mean


def _slabs(logits: Tensor) -> Iterator[tuple[slice, ...]]:
    """Slabs along the first spatial axis; the whole of (B, K)."""
    if logits.ndim == 2:
        yield (slice(None),)
        return
    rows = max(1, SLAB // (logits[:, :, :1].numel() * 4))
    for start in range(0, logits.shape[2], rows):
        yield slice(None), slice(None), slice(start, start + rows)


def _loaded(network: nn.Module, path: str) -> nn.Module:
    """A copy of the network with the weights of a file, ready to predict."""
    model = deepcopy(network)
    model.load_state_dict(read_weights(path, model, option="ensemble"))
    return model.eval()
