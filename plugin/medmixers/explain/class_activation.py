"""Class activation by MONAI's GradCAM, GradCAMpp and OcclusionSensitivity, for classifiers and segmenters."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from monai.visualize import GradCAM, GradCAMpp, OcclusionSensitivity
from monai.visualize.class_activation_maps import ModelWithHooks
from torch import Tensor, nn
from torch.nn import functional as F

from medmixers.errors import InputError
from medmixers.explain.token_attention import attention_on_image

GRADIENT = {"gradcam": GradCAM, "gradcampp": GradCAMpp}
METHODS = (*GRADIENT, "occlusion")
OVER_THE_LAST_AXIS = (nn.LayerNorm, nn.RMSNorm)
EIGHTH = 8  # an occluding block is this part of the window per axis
STRIDES = [2**power for power in range(8)]  # of feature maps, where the network does not tell its own


class Activation(NamedTuple):
    """Evidence for a class.

    Args:
        map: on the grid of the window, (*window). Of GradCAM and GradCAMpp not negative, largest value 1. Of occlusion
            the loss of the class's probability where a block around the voxel is hidden: negative where it rises.
        layer: whose feature map is weighed; "" for occlusion.
        grid: size of the feature map, or of the occluding block.
    """

    map: Tensor
    layer: str
    grid: tuple[int, ...]


class ClassScores(nn.Module):
    """A network as a classifier, (B, C, *window) -> scores (B, K).

    Of a segmenter, the score of a class is its mean logit over the voxels where the network finds it in the window as
    it is (Seg-Grad-CAM, Vinogradova et al. 2020).

    Args:
        network: classifier or segmenter.
        image: (1, C, *window), in which a segmenter's voxels are chosen.
        exclusive: whether the classes exclude each other; else each is a sigmoid channel.

    Attributes:
        logits: of the image.
        chosen: the voxels of each class, (1, K, *window), 0 and 1; None for a classifier.
    """

    def __init__(self, network: nn.Module, image: Tensor, *, exclusive: bool) -> None:
        super().__init__()
        self.network, self.exclusive = network, exclusive
        with torch.no_grad():
            self.logits = self._logits(image)
        self.chosen: Tensor | None = None
        if self.logits.ndim > 2:
            classes = self.logits.shape[1]
            winner = F.one_hot(self.logits.argmax(1), classes).movedim(-1, 1)
            self.chosen = (winner if exclusive else self.logits > 0).to(self.logits)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, *window) -> (B, K); 0 for a class that a segmenter finds nowhere."""
        logits = self._logits(x)
        if self.chosen is None:
            return logits
        counts = self.chosen.flatten(2).sum(-1).clamp_min(1)
        return (logits * self.chosen).flatten(2).sum(-1) / counts

    def probabilities(self, x: Tensor) -> Tensor:
        """x: (B, C, *window) -> (B, K); of a segmenter the means over the voxels of each class."""
        logits = self._logits(x)
        values = logits.softmax(1) if self.exclusive and logits.shape[1] > 1 else logits.sigmoid()
        if self.chosen is None:
            return values
        return (values * self.chosen).flatten(2).sum(-1) / self.chosen.flatten(2).sum(-1).clamp_min(1)

    def _logits(self, x: Tensor) -> Tensor:
        out = self.network(x)
        logits: Tensor = out[0] if isinstance(out, list | tuple) else out
        return logits


def class_activation(
    scores: ClassScores,
    image: Tensor,
    *,
    method: str,
    label: int,
    layer: str | None = None,
    mask_size: int | None = None,
) -> Activation:
    """Where the evidence for a class lies.

    Args:
        scores: of a network in eval mode and the image.
        image: (1, C, *window).
        method: of :data:`METHODS`.
        label: channel of the logits.
        layer: name of a module of the network with a feature map; by default :func:`default_layer`.
        mask_size: edge of the occluding block in voxels; by default an eighth of the window.

    Raises:
        InputError: an unknown method, a class that a segmenter finds nowhere, a layer without feature map or gradient,
            a block that is larger than the window, or a map that is 0 everywhere.
    """
    if method not in METHODS:
        raise InputError(f"--method must be one of {', '.join(METHODS)}, got {method!r}")
    unread = {"--layer": layer} if method == "occlusion" else {"--mask_size": mask_size}
    for option, value in unread.items():
        if value is not None:
            raise InputError(f"--method {method} has no {option}")
    if scores.chosen is not None and not scores.chosen[0, label].any():
        raise InputError(f"the network finds class {label} nowhere in the window, so there is no evidence to show")
    if method == "occlusion":
        return _occlusion(scores, image, label, mask_size)
    maps = feature_maps(scores.network, image)
    name = default_layer(maps, is_segmenter=scores.chosen is not None) if layer is None else layer
    if name not in maps:
        listed = ", ".join(list(maps)[-5:]) or "none; use --method occlusion"
        raise InputError(f"the network has no feature map {name!r}; the last ones: {listed}")
    found = _by_gradient(scores, image, name, method, label)
    if not found.any():
        raise InputError(f"layer {name!r} holds no evidence for class {label}: the map is 0 everywhere; give --layer")
    on_image = _on_image(scores.network, found, image.shape[2:])
    return Activation((on_image / on_image.max())[0, 0].detach(), name, tuple(found.shape[2:]))


class FeatureMap(NamedTuple):
    """The output of a module, (1, C, *grid).

    Args:
        grid: its size.
        share: of the network's parameters, used before its end.
        is_certain: whether the output is no matrix of attention and no map with its channels last.
    """

    grid: tuple[int, ...]
    share: float
    is_certain: bool


def default_layer(maps: Mapping[str, FeatureMap], *, is_segmenter: bool) -> str:
    """The last feature map of a classifier, as usual for GradCAM; of a segmenter the last one of the coarsest grid.

    An outer module goes before its parts: a part may be one of several branches.

    Args:
        maps: module -> its feature map, in the order of the forward.

    Raises:
        InputError: there is none, or most of a classifier follows it: a Transformer over a sequence.
    """
    wide = {name: each for name, each in maps.items() if prod(each.grid) > 1 and each.is_certain}
    if not wide:
        raise InputError("the network has no feature map of several positions; use --method occlusion")
    least = min(prod(each.grid) for each in wide.values())
    names = [name for name, each in wide.items() if prod(each.grid) == least]
    outermost = min(name.count(".") for name in names)
    last = [name for name in names if name.count(".") == outermost][-1]
    if not is_segmenter and wide[last].share < 0.5:
        raise InputError(
            f"the last feature map, of {last!r}, has {1 - wide[last].share:.0%} of the network's parameters after it; "
            "use --method occlusion, or give --layer"
        )
    return last


@torch.no_grad()
def feature_maps(network: nn.Module, image: Tensor) -> dict[str, FeatureMap]:
    """Module -> its feature map, in the order in which the modules end; the network itself is left out.

    Left out are modules that run several times, and outputs whose size is not the image's over a stride. Not certain
    are parts of attention, norms over the last axis, and modules without weights.
    """
    found: dict[str, FeatureMap] = {}
    calls: Counter[str] = Counter()
    used: dict[nn.Module, int] = {}
    every = sum(parameter.numel() for parameter in network.parameters())
    totals = _total_stride(network, image.ndim - 2)
    attention = tuple(f"{n}." for n, module in network.named_modules() if "attention" in type(module).__name__.lower())

    def keep(module: nn.Module, inputs: Any, output: Any, *, name: str) -> None:
        calls[name] += 1
        used[module] = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if isinstance(output, Tensor) and output.ndim == image.ndim and len(output) == 1:
            grid = tuple(output.shape[2:])
            if all(_stride(*axis) for axis in zip(image.shape[2:], grid, totals, strict=True)):
                has_weights = next(module.parameters(), None) is not None
                is_other = isinstance(module, OVER_THE_LAST_AXIS) or name.startswith(attention)
                found[name] = FeatureMap(grid, sum(used.values()) / max(every, 1), has_weights and not is_other)

    handles = [
        module.register_forward_hook(partial(keep, name=name)) for name, module in network.named_modules() if name
    ]
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    return {name: each for name, each in found.items() if calls[name] == 1}


class _Hooks(ModelWithHooks):
    """MONAI's hooks, for gradients in any memory format: it takes views of them."""

    def backward_hook(self, name: str) -> Any:
        def hook(module: nn.Module, grad_input: Any, grad_output: Any) -> None:
            self.gradients[name] = grad_output[0].contiguous()

        return hook


def _by_gradient(scores: ClassScores, image: Tensor, layer: str, method: str, label: int) -> Tensor:
    """MONAI's map on the grid of the layer, (1, 1, *grid)."""
    for module in scores.modules():
        if getattr(module, "inplace", False) is True:  # hooks of gradients refuse outputs that are changed in place
            module.inplace = False  # type: ignore[assignment]
    hooked = _Hooks(scores, f"network.{layer}", register_forward=True, register_backward=True)
    upsampler, postprocessing = lambda size: lambda x: x, lambda x: x
    monai = GRADIENT[method](hooked, f"network.{layer}", upsampler=upsampler, postprocessing=postprocessing)
    try:
        found: Tensor = monai(image.detach().clone().requires_grad_(), class_idx=label)
    except (IndexError, RuntimeError) as error:  # no gradient was recorded, or none can be
        raise InputError(
            f"the class's score has no gradient at layer {layer!r} ({error}); give --layer, or --method occlusion"
        ) from error
    return found.detach()


def _on_image(network: nn.Module, maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resample maps of a layer, (1, 1, *grid), to the window: a cell covers as many voxels as its stride."""
    grid = maps.shape[2:]
    strides = [_stride(*axis) for axis in zip(size, grid, _total_stride(network, len(grid)), strict=True)]
    return attention_on_image(maps / maps[0, 0].numel(), size, stride=strides)


def _stride(voxels: int, cells: int, total: int) -> int:
    """Voxels per cell on one axis, where sizes are rounded up, at each stride or once to a multiple; 0 if neither."""
    padded = -(-voxels // total) * total
    known = sorted({step for step in range(1, total + 1) if total % step == 0} | set(STRIDES))
    return next((step for step in known if cells in (-(-voxels // step), -(-padded // step))), 0)


def _total_stride(network: nn.Module, axes: int) -> list[int]:
    """Multiple that the network pads its images to, per axis; 1 where it does not say."""
    stride: Any = getattr(network, "stride", None)
    return [1] * axes if stride is None else [stride] * axes if isinstance(stride, int) else list(stride)


def _occlusion(scores: ClassScores, image: Tensor, label: int, mask_size: int | None) -> Activation:
    """Loss of the class's probability when a Gaussian block hides the image around each voxel."""
    size = image.shape[2:]
    block = [-(-voxels // EIGHTH) if mask_size is None else mask_size for voxels in size]
    if any(not 1 <= edge <= voxels for edge, voxels in zip(block, size, strict=True)):
        raise InputError(f"--mask_size must be from 1 to {min(size)}, the window's smallest edge, got {mask_size}")
    network = _Probabilities(scores).eval()  # MONAI puts a network in training mode back into it, with all its parts
    # MONAI's own choice of sigmoid or softmax looks at the channels of the image
    method = OcclusionSensitivity(network, mask_size=block, n_batch=4, verbose=False, activate=False)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using a non-tuple sequence")  # of MONAI's own indexing
        hidden, _ = method(image)
        found = network(image)[0, label] - hidden.as_subclass(Tensor)[0, label]
    if not found.any():
        raise InputError(f"no block of {block} voxels that is hidden changes the probability of class {label}")
    return Activation(found, "", tuple(block))


class _Probabilities(nn.Module):
    """The probabilities of :class:`ClassScores` as a module."""

    def __init__(self, scores: ClassScores) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, C, *window) -> (B, K)."""
        return self.scores.probabilities(x)
