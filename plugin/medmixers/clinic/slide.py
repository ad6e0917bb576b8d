"""``medmixers clinic slide``: a whole histology slide in, a tiled label map back.

Windows, their weights and the order of their sums are those of MONAI's sliding windows over the whole image: the labels
are the same. Here each window is read from the slide, and the sums of one band of windows are kept at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medmixers.clinic.slide_file import SlideView, open_slide, write_label_map
from medmixers.clinic.uncertainty.bundle import Bundle, open_bundle
from medmixers.errors import InputError
from medmixers.files import refuse_overwriting_inputs
from medmixers.progress import Announce, progress, silent

if TYPE_CHECKING:
    import torch

    from medmixers.clinic.uncertainty.predictor import Predictor

ENDINGS = (".tif", ".tiff")
LOCAL = ("LoadImaged", "EnsureChannelFirstd", "ScaleIntensityRanged")  # what one window needs no other pixels for
HELD = 2**28  # bytes of an array on disk that memory holds
PAGE = 4096  # bytes of memory that come from a file at a time


def segment_slide(
    model: str | Path,
    slide: str | Path,
    out: str | Path,
    *,
    mpp: float | None = None,
    checkpoint: str | None = None,
    device: str | None = None,
    announce: Announce = silent,
) -> str:
    """Segment a slide by windows at the bundle's microns per pixel, and write a tiled, pyramidal TIFF of labels.

    Args:
        model: folder or zip of a bundle that segments RGB pictures.
        slide: a file that OpenSlide reads, a tiled TIFF for example.
        out: the TIFF, .tif or .tiff.
        mpp: microns per pixel that the network sees; None takes those of the bundle.
        checkpoint: file of weights in place of the bundle's.
        device: as torch names it; None takes the bundle's choice.
        announce: called with the name of each step.

    Returns:
        What was written, in words.

    Raises:
        InputError: a model or a slide that does not fit; one line that names the fault.
    """
    slide, out = Path(slide), Path(out)
    if out.is_dir() or out.suffix.lower() not in ENDINGS:
        raise InputError(f"{out} must be a TIFF file to write, {' or '.join(ENDINGS)}")
    if mpp is not None and not 0 < mpp < 1000:
        raise InputError(f"mpp is microns per pixel, such as 0.5; got {mpp}")
    refuse_overwriting_inputs(out, [slide])
    with tempfile.TemporaryDirectory(prefix="medmixers-") as folder:
        weights = None if checkpoint is None else Path(checkpoint)
        bundle = open_bundle(Path(model), Path(folder), weights=weights, announce=announce)
        check_bundle(bundle)
        asked = bundle_mpp(bundle) if mpp is None else mpp
        with open_slide(slide, asked) as view:
            announce("load the network")
            from medmixers.clinic.uncertainty.predictor import Predictor

            predictor = Predictor(bundle, device=device)
            announce("predict")
            labels = OnDisk(view.size[::-1], np.uint8)
            counts = write_labels(predictor, view, labels)
            announce("write the label map")
            write_label_map(out, labels.array, mpp=view.mpp, touched=labels.touched)
    shares = (f"{bundle.names[k]} {count / counts.sum():.1%}" for k, count in enumerate(counts) if count)
    return f"{out}: {view.size[0]} x {view.size[1]} pixels of {view.mpp[0]:.3g} microns, {', '.join(shares)}"


def check_bundle(bundle: Bundle) -> None:
    """Raise InputError unless a bundle gives one label per pixel of RGB pictures, each window on its own."""
    reader = bundle.config.get("image_reader", {})
    if not bundle.is_segmentation or (reader.get("spatial_dims"), reader.get("channels")) != (2, 3):
        raise InputError(f"{bundle.source} does not segment RGB pictures; this command does so with slides")
    if not bundle.exclusive:
        raise InputError(f"{bundle.source} gives several labels per pixel; this command writes one")
    names = [each["_target_"].rpartition(".")[2] for each in bundle.config["preprocessing"]["transforms"]]
    if other := [name for name in names if name not in LOCAL]:
        raise InputError(f"{bundle.source} has {other[0]}, which needs the whole picture: it cannot see windows alone")


def bundle_mpp(bundle: Bundle) -> float:
    """Microns per pixel that a bundle's metadata states."""
    stated = bundle.metadata["network_data_format"]["inputs"]["image"].get("mpp")
    if stated is None:
        raise InputError(f"{bundle.source} does not say how many microns a pixel of its pictures has; give --mpp")
    return float(stated)


class OnDisk:
    """An array of zeros in a temporary file, of which memory holds the parts in use.

    Args:
        shape: of the array.
        dtype: of its numbers.
    """

    def __init__(self, shape: Sequence[int], dtype: type) -> None:
        from medmixers.bundle_runtime.file_tensors import zeros_in_file

        size = prod(shape) * np.dtype(dtype).itemsize
        try:
            self._file = zeros_in_file([ceil(size / 4)])
        except InputError:  # its words are for other commands
            folder = tempfile.gettempdir()
            raise InputError(
                f"this slide needs {size / 2**30:.1f} GiB in {folder}, which has too little space: set the "
                "environment's TMPDIR to a folder on a larger disk"
            ) from None
        self.array: NDArray[Any] = self._file.numpy().view(np.uint8)[:size].view(dtype).reshape(shape)
        self._touched = 0

    def touched(self, size: int) -> None:
        """Say that so many bytes were read or written; from ``HELD`` on, the memory that holds them is given back."""
        from medmixers.bundle_runtime.file_tensors import release

        self._touched += size
        if self._touched > HELD:
            release(self._file)
            self._touched = 0


def write_labels(predictor: Predictor, view: SlideView, labels: OnDisk) -> NDArray[np.int64]:
    """Predict all windows of a slide.

    Args:
        predictor: of the bundle.
        view: the slide at the network's microns per pixel.
        labels: filled, (y, x).

    Returns:
        The number of pixels of each label.
    """
    import torch
    from monai.data.utils import dense_patch_slices
    from monai.utils import ensure_tuple_rep

    inferer = predictor.inferer
    roi = tuple(ensure_tuple_rep(inferer.roi_size, 2))
    size = tuple(max(extent, window) for extent, window in zip(view.size, roi, strict=True))
    overlaps = ensure_tuple_rep(inferer.overlap, 2)
    steps = [
        window if window == extent else max(1, int(window * (1 - overlap)))
        for extent, window, overlap in zip(size, roi, overlaps, strict=True)
    ]
    places = dense_patch_slices(size, roi, steps)
    band = Band(predictor, view, labels, roi, size)
    batches = [places[at : at + inferer.sw_batch_size] for at in range(0, len(places), inferer.sw_batch_size)]
    for batch in progress(batches, "predict"):
        windows = torch.cat([band.window(place) for place in batch]).to(predictor.device)
        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=predictor.amp):
            logits = predictor.network(windows)
        if not logits.isfinite().all():
            raise InputError(
                f"the network of {predictor.bundle.source} gives values that are not finite for {view.name}"
            )
        for place, each in zip(batch, logits.float(), strict=True):
            band.add(place, each)
    return band.finish()


class Band:
    """The sums of the windows that overlap the columns being predicted.

    Args:
        predictor, view, labels: as :func:`write_labels` has them.
        roi: size of a window, (x, y).
        size: of the image, at least that of a window.
    """

    def __init__(
        self, predictor: Predictor, view: SlideView, labels: OnDisk, roi: tuple[int, ...], size: tuple[int, ...]
    ) -> None:
        import torch
        from monai.data.utils import compute_importance_map

        self.view, self.labels, self.roi = view, labels, roi
        self.preprocessing = predictor.preprocessing.transforms[2:]  # without the reader and the order of axes
        inferer = predictor.inferer
        self.weight = compute_importance_map(roi, mode=inferer.mode, sigma_scale=inferer.sigma_scale).float()
        self.margin = [(whole - own) // 2 for whole, own in zip(size, view.size, strict=True)]  # MONAI pads both sides
        self.start = 0  # of the column that row 0 of the sums stands for
        count = len(predictor.bundle.names)
        self._on_disk = OnDisk((roi[0], count + 1, size[1]), np.float32)
        self.sums = torch.from_numpy(self._on_disk.array)  # (x in the band, label, y); after the labels the weights
        self.counts = np.zeros(count, np.int64)

    def window(self, place: tuple[slice, ...]) -> torch.Tensor:
        """The preprocessed pixels of a window, (1, 3, x, y); 0 outside the image."""
        import torch

        start = [at.start - before for at, before in zip(place, self.margin, strict=True)]
        low = [max(0, each) for each in start]
        high = [min(each + edge, whole) for each, edge, whole in zip(start, self.roi, self.view.size, strict=True)]
        item: dict[str, Any] = {"image": torch.from_numpy(self.view.read(low, high)).float()}
        for transform in self.preprocessing:
            item = transform(item)
        window = torch.zeros(1, 3, *self.roi)
        columns, rows = (slice(a - b, c - b) for a, b, c in zip(low, start, high, strict=True))
        window[0, :, columns, rows] = torch.as_tensor(item["image"])
        return window

    def add(self, place: tuple[slice, ...], logits: torch.Tensor) -> None:
        """Add the logits of a window, (K, x, y)."""
        self._decide(place[0].start)
        weighted = (logits * self.weight.to(logits.device)).cpu().transpose(0, 1)
        self.sums[:, :-1, place[1]] += weighted
        self.sums[:, -1, place[1]] += self.weight
        self._on_disk.touched(weighted.nbytes)

    def finish(self) -> NDArray[np.int64]:
        """Decide the last columns, and return the number of pixels of each label."""
        self._decide(self.start + self.roi[0])
        return self.counts

    def _decide(self, end: int) -> None:
        """Write the labels of the columns before ``end``, which no further window overlaps, and move the band there."""
        done = end - self.start
        step = max(1, HELD // 8 // self.sums[0].nbytes)
        for first in range(0, done, step):
            self._write(first, min(first + step, done))
        for row in range(self.roi[0] if done else 0):
            self.sums[row] = self.sums[row + done] if row + done < self.roi[0] else 0
            self._on_disk.touched(2 * self.sums[row].nbytes)
        self.start = end

    def _write(self, first: int, last: int) -> None:
        """The labels of rows of the band, which are columns of the image: of equal logits the first, as in bundles."""
        shift = self.start - self.margin[0]
        first, last = max(first, -shift), min(last, self.view.size[0] - shift)
        if first >= last:
            return
        inside = slice(self.margin[1], self.margin[1] + self.view.size[1])
        logits = self.sums[first:last, :-1, inside] / self.sums[first:last, -1:, inside]
        found = logits.max(dim=1).indices.numpy().astype(np.uint8)
        self.labels.array[:, first + shift : last + shift] = found.T
        self.labels.touched(PAGE * found.shape[1])
        self._on_disk.touched(self.sums[first:last].nbytes)
        self.counts += np.bincount(found.ravel(), minlength=len(self.counts))
