"""MONAI's sliding windows for images whose logits are larger than memory.

Windows, weights and the order of the sums are MONAI's: the logits are the same, bit by bit. What differs is where they
are summed. MONAI sums them in memory, classes x voxels, twice at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai import inferers
from monai.data import MetaTensor
from torch import Tensor

from medmixers.bundle_runtime.file_tensors import HELD, is_in_file, release, zeros_in_file

GIB = 2**30
CPU_GIB = 1.0  # logits up to this size stay in a CPU's memory


class SlidingWindowInferer(inferers.SlidingWindowInferer):
    """MONAI's, whose logits go to a temporary file where they are larger than ``logits_memory_gb``.

    They are an ordinary tensor in both cases, on the CPU where they lie in a file. Batches of several images, images in
    other than single precision, outputs of another size than the window, several outputs, and ``buffer_steps`` go
    MONAI's own way.

    Args:
        args: MONAI's.
        logits_memory_gb: in GiB. None: 1 on a CPU, half of the free memory on a GPU.
        options: MONAI's.
    """

    def __init__(self, *args: Any, logits_memory_gb: float | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logits_memory_gb = logits_memory_gb

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """inputs: (1, C, *spatial) -> float32 logits (1, K, *spatial), with the metadata of the inputs."""
        is_plain = len(inputs) == 1 and inputs.dtype == torch.float32 and not self.with_coord
        if not is_plain or self.buffer_steps or kwargs.get("buffer_steps"):
            return super().__call__(inputs, network, *args, **kwargs)
        device = kwargs.pop("device", self.device)
        if device is None and self.cpu_thresh is not None and inputs.shape[2:].numel() > self.cpu_thresh:
            device = "cpu"
        stitched = _Stitched(inputs, network, torch.device(device or inputs.device), self.logits_memory_gb)
        ordinary = inferers.sliding_window_inference(
            inputs,
            self.roi_size,
            self.sw_batch_size,
            stitched.predict,
            self.overlap,
            self.mode,
            self.sigma_scale,
            self.padding_mode,
            self.cval,
            self.sw_device,
            device,
            self.progress,
            self.roi_weight_map,
            stitched.add,
            None,
            -1,
            True,
            *args,
            **kwargs,
        )
        return ordinary if stitched.logits is None else stitched.result()


class SliceInferer(inferers.SliceInferer, SlidingWindowInferer):
    """MONAI's, for a 2D network and the slices of a volume, with the logits of :class:`SlidingWindowInferer`."""


class _Stitched:
    """The sum of the windows' logits, each row of the first axis divided by its weights once no window follows there.

    Args:
        inputs: (1, C, *spatial).
        network: of windows.
        device: of the sum, where it fits there.
        memory_gb: as :class:`SlidingWindowInferer` has it.
    """

    def __init__(self, inputs: Tensor, network: Callable[..., Any], device: torch.device, memory_gb: float | None):
        self.inputs, self.network, self.device = inputs, network, device
        self.memory_gb = memory_gb
        self.logits: Tensor | None = None
        self.done = 0  # rows of the first axis that are divided

    def predict(self, windows: Tensor, places: Sequence[Sequence[slice]], *args: Any, **kwargs: Any) -> Any:
        """Logits of windows. ``places``: batch, channel and spatial slices of each, in the padded image."""
        self.places = [tuple(place[2:]) for place in places]
        output = self.network(windows, *args, **kwargs)
        if self.logits is None and isinstance(output, Tensor) and output.shape[2:] == windows.shape[2:]:
            self._allocate(output.shape[1], windows.shape[2:])
        return output

    def add(self, outputs: Sequence[Any], windows: Tensor, weights: Tensor) -> tuple[Sequence[Any], Tensor]:
        """MONAI's ``process_fn``: add the logits of windows, and give MONAI one channel to add up in their place."""
        if self.logits is None:
            return outputs, weights
        logits = outputs[0]
        logits *= weights
        for place, each in zip(self.places, logits.to(self.logits.device), strict=True):
            self._divide(place[0].start)
            for rows in self._rows(place[0]):
                start, at = place[0].start, (slice(None), rows, *place[1:])
                self.logits[at].add_(each[:, rows.start - start : rows.stop - start])
            self.weights[place].add_(weights.to(self.weights.device))
        return (windows.new_zeros(len(windows), 1, *windows.shape[2:]),), weights

    def result(self) -> Tensor:
        """The logits without padding, (1, K, *spatial)."""
        if self.logits is None:
            raise RuntimeError("no window was added")
        self._divide(self.logits.shape[1])
        sizes = zip(self.inputs.shape[2:], self.logits.shape[1:], strict=True)
        inner = (slice((padded - size) // 2, (padded - size) // 2 + size) for size, padded in sizes)
        at = (None, slice(None), *inner)
        logits = self.logits[at]
        return MetaTensor(logits).copy_meta_from(self.inputs, False) if isinstance(self.inputs, MetaTensor) else logits

    def _allocate(self, classes: int, window: Sequence[int]) -> None:
        sizes = [max(size, least) for size, least in zip(self.inputs.shape[2:], window, strict=True)]
        voxels = torch.Size(sizes).numel()
        if fits(4 * classes * voxels, self.device, self.memory_gb):
            self.logits = torch.zeros(classes, *sizes, device=self.device)
        else:  # a row of the first axis is one piece of the file
            self.logits = zeros_in_file([sizes[0], classes, *sizes[1:]]).transpose(0, 1)
        self.weights = torch.zeros(sizes, device=self.logits.device)

    def _divide(self, end: int) -> None:
        """Divide the rows of the first axis before ``end``: MONAI's windows go along it in order."""
        if self.logits is not None and end > self.done:
            for rows in self._rows(slice(self.done, end)):
                self.logits[:, rows].div_(self.weights[rows])
            self.done = end

    def _rows(self, rows: slice) -> Iterator[slice]:
        """Rows of the first axis, as many at a time as memory may hold of a file."""
        if self.logits is None or not is_in_file(self.logits):
            yield rows
            return
        step = max(1, HELD // self.logits[:, 0].nbytes)
        for start in range(rows.start, rows.stop, step):
            yield slice(start, min(start + step, rows.stop))
            release(self.logits)


def fits(size: int, device: torch.device, memory_gb: float | None) -> bool:
    """Whether logits of ``size`` bytes stay in the memory of a device, by :class:`SlidingWindowInferer`'s rule."""
    if memory_gb is not None:
        return size <= memory_gb * GIB
    if device.type == "cuda":
        return size <= torch.cuda.mem_get_info(device)[0] / 2
    return size <= CPU_GIB * GIB
