"""``medmixers clinic slide``: a whole histology slide in, a tiled label map back.

Windows, their weights and the order of their sums are those of MONAI's sliding windows over the whole image: the labels
are the same. Here each window is read from the slide, and the sums of one band of windows are kept at a time.
Windows of bare glass are not predicted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from math import ceil, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medmixers.clinic.slide_file import SlideView, open_slide, write_label_map
from medmixers.clinic.tissue import SATURATION, block_edge, has_tissue
from medmixers.clinic.uncertainty.bundle import Bundle, open_bundle
from medmixers.clinic.uncertainty.ensemble import quiet
from medmixers.errors import InputError
from medmixers.files import file_digest, refuse_overwriting_inputs
from medmixers.progress import Announce, progress, silent

if TYPE_CHECKING:
    import torch

    from medmixers.clinic.uncertainty.predictor import Predictor

ENDINGS = (".tif", ".tiff")
LOCAL = ("LoadImaged", "EnsureChannelFirstd", "ScaleIntensityRanged")  # what one window needs no other pixels for
HELD = 2**26  # bytes of an array on disk that memory holds
PAGE = 4096  # bytes of memory that come from a file at a time


def segment_slide(
    model: str | Path,
    slide: str | Path,
    out: str | Path,
    *,
    mpp: float | None = None,
    tissue_threshold: float | None = None,
    all_windows: bool = False,
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
        tissue_threshold: saturation from 0 to 1 that bare glass does not exceed; None takes 0.03.
        all_windows: predict those without tissue too.
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
    least = check_threshold(tissue_threshold, all_windows=all_windows)
    refuse_overwriting_inputs(out, [slide])
    with quiet(), tempfile.TemporaryDirectory(prefix="medmixers-") as folder:
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
            found = write_labels(predictor, view, labels, least)
            announce("write the label map")
            record = found.record(bundle, view, least)
            write_label_map(out, labels.array, mpp=view.mpp, record=record, touched=labels.touched)
    return f"{out}: {found.summary(bundle, view)}"


def check_threshold(tissue_threshold: float | None, *, all_windows: bool) -> float | None:
    """The saturation that glass does not exceed, or None where all windows are predicted."""
    if all_windows and tissue_threshold is not None:
        raise InputError("--tissue_threshold chooses windows, and --all_windows takes all: leave one of them out")
    if tissue_threshold is not None and not 0 < tissue_threshold < 1:
        raise InputError(
            f"tissue_threshold is a saturation between 0 and 1, such as {SATURATION}; got {tissue_threshold}"
        )
    return None if all_windows else tissue_threshold or SATURATION


class Found(NamedTuple):
    """What was predicted: pixels of each label in the windows that were, the number of windows, and those skipped."""

    pixels: NDArray[np.int64]
    windows: int
    skipped: int

    def summary(self, bundle: Bundle, view: SlideView) -> str:
        """In words."""
        size = f"{view.size[0]} x {view.size[1]} pixels of {view.mpp[0]:.3g} microns"
        part = self.pixels.sum()
        shares = (f"{bundle.names[k]} {count / part:.1%}" for k, count in enumerate(self.pixels) if count)
        said = f"{size}, {', '.join(shares)}"
        if not self.skipped:
            return f"{said}; no window skipped"
        value, name = skipped_label(bundle)
        return (
            f"{said} of the {part / prod(view.size):.1%} that were predicted; {self.skipped} of {self.windows} windows "
            f"skipped without tissue, their pixels are {value} ({name})"
        )

    def record(self, bundle: Bundle, view: SlideView, least: float | None) -> dict[str, Any]:
        """What a reader of the label map must know, as JSON data."""
        value, name = skipped_label(bundle)
        labels = {each: number for number, each in enumerate(bundle.names)}
        return {
            "model": bundle.metadata["name"],
            "version": bundle.metadata["version"],
            "weights_sha256": file_digest(bundle.weights),
            "software": f"medmixers {version('medmixers')}",
            "mpp": list(view.mpp),
            "labels": labels | ({name: value} if self.skipped else {}),
            "windows": self.windows,
            "skipped_windows": self.skipped,
            "skipped_value": value if self.skipped else None,
            "tissue_threshold": least,
        }


def skipped_label(bundle: Bundle) -> tuple[int, str]:
    """Value and name of the label of skipped pixels: that of pixels without a known label, else the background."""
    if bundle.ignored_value is not None:
        return bundle.ignored_value, "ignore"
    return 0, bundle.names[0]


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


def write_labels(predictor: Predictor, view: SlideView, labels: OnDisk, least: float | None) -> Found:
    """Predict the windows of a slide.

    Args:
        predictor: of the bundle.
        view: the slide at the network's microns per pixel.
        labels: filled, (y, x).
        least: saturation that glass does not exceed; None predicts windows without tissue too.

    Raises:
        InputError: no window has tissue, or the network gives values that are not finite.
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
    band = Band(predictor, view, labels, roi, size, least)
    places = dense_patch_slices(size, roi, steps)
    for batch in band.batches(places, inferer.sw_batch_size):
        windows = torch.cat([window for _, window in batch]).to(predictor.device)
        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=predictor.amp):
            logits = predictor.network(windows)
        if not logits.isfinite().all():
            raise InputError(
                f"the network of {predictor.bundle.source} gives values that are not finite for {view.name}"
            )
        for (place, _), each in zip(batch, logits.float(), strict=True):
            band.add(place, each)
    if band.skipped == len(places):
        raise InputError(
            f"no window of {view.name} has tissue: none has a saturation above {least:g} or is dark; lower "
            "--tissue_threshold, or give --all_windows"
        )
    return Found(band.finish(), len(places), band.skipped)


class Band:
    """The sums of the windows that overlap the columns being predicted.

    Args:
        predictor, view, labels: as :func:`write_labels` has them.
        roi: size of a window, (x, y).
        size: of the image, at least that of a window.
        least: as :func:`write_labels` has it.
    """

    def __init__(
        self,
        predictor: Predictor,
        view: SlideView,
        labels: OnDisk,
        roi: tuple[int, ...],
        size: tuple[int, ...],
        least: float | None,
    ) -> None:
        import torch
        from monai.data.utils import compute_importance_map

        self.view, self.labels, self.roi, self.size, self.least = view, labels, roi, size, least
        self.skipped = 0
        self.skipped_value = skipped_label(predictor.bundle)[0]
        self.preprocessing = predictor.preprocessing.transforms[2:]  # without the reader and the order of axes
        inferer = predictor.inferer
        self.weight = compute_importance_map(roi, mode=inferer.mode, sigma_scale=inferer.sigma_scale).float()
        self.margin = [(whole - own) // 2 for whole, own in zip(size, view.size, strict=True)]  # MONAI pads both sides
        self.start = 0  # the column of the image that the band begins with
        count = len(predictor.bundle.names)
        # (y, x in the band, label), after the labels the weights: the sums of a window lie together in the file
        self._on_disk = OnDisk((size[1], roi[0], count + 1), np.float32)
        self.sums = torch.from_numpy(self._on_disk.array)
        self.counts = np.zeros(count, np.int64)

    def batches(
        self, places: Sequence[tuple[slice, ...]], size: int
    ) -> Iterator[list[tuple[tuple[slice, ...], torch.Tensor]]]:
        """Windows to predict with their places, so many at a time; those without tissue are counted and left out."""
        batch = []
        for place in progress(places, "predict"):
            if (window := self._window(place)) is None:
                self.skipped += 1
                continue
            batch.append((place, window))
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _window(self, place: tuple[slice, ...]) -> torch.Tensor | None:
        """The preprocessed pixels of a window, (1, 3, x, y), 0 outside the image; None of one without tissue."""
        import torch

        start = [at.start - before for at, before in zip(place, self.margin, strict=True)]
        low = [max(0, each) for each in start]
        high = [min(each + edge, whole) for each, edge, whole in zip(start, self.roi, self.view.size, strict=True)]
        if not self._has_tissue(low, high):
            return None
        item: dict[str, Any] = {"image": torch.from_numpy(self.view.read(low, high)).float()}
        for transform in self.preprocessing:
            item = transform(item)
        window = torch.zeros(1, 3, *self.roi)
        columns, rows = (slice(a - b, c - b) for a, b, c in zip(low, start, high, strict=True))
        window[0, :, columns, rows] = torch.as_tensor(item["image"])
        return window

    def _has_tissue(self, low: Sequence[int], high: Sequence[int]) -> bool:
        """Of the blocks that pixels touch, which lie alike for all windows: each window of a tissue's block has it."""
        if self.least is None:
            return True
        edge = block_edge(max(self.view.mpp))
        outer = [min(ceil(each / edge) * edge, whole) for each, whole in zip(high, self.view.size, strict=True)]
        pixels = self.view.read([each // edge * edge for each in low], outer)
        return has_tissue(pixels, edge=edge, saturation=self.least)

    def add(self, place: tuple[slice, ...], logits: torch.Tensor) -> None:
        """Add the logits of a window, (K, x, y)."""
        self._decide(place[0].start)
        sums = self.sums[place[1]]
        sums[..., :-1] += (logits * self.weight.to(logits.device)).cpu().permute(2, 1, 0)
        sums[..., -1] += self.weight.T
        self._on_disk.touched(sums.nbytes)

    def finish(self) -> NDArray[np.int64]:
        """Decide the last columns, and return the number of pixels of each label in windows that were predicted."""
        self._decide(self.size[0])
        return self.counts

    def _decide(self, end: int) -> None:
        """Write the labels of the columns before ``end``, which no further window overlaps, and move the band there."""
        while self.start < end:  # columns of skipped windows may be more than a band
            self._move(min(end, self.start + self.roi[0]))

    def _move(self, end: int) -> None:
        done = end - self.start
        step = max(1, HELD // 8 // self.sums[0].nbytes)
        for first in range(0, self.size[1], step):
            rows = slice(first, first + step)
            sums = self.sums[rows]
            self._write(rows.start, sums[:, :done])
            moved = sums[:, done:].clone()
            sums[:, : moved.shape[1]] = moved
            sums[:, moved.shape[1] :] = 0
            self._on_disk.touched(sums.nbytes)
        self.start = end

    def _write(self, row: int, sums: torch.Tensor) -> None:
        """The labels of sums, (y from ``row``, x from ``start`` on, label): of equal ones the first, as in bundles."""
        corner = (row - self.margin[1], self.start - self.margin[0])
        low = [max(0, -each) for each in corner]
        high = [
            min(extent, whole - each)
            for extent, whole, each in zip(sums.shape[:2], self.view.size[::-1], corner, strict=True)
        ]
        inside = sums[low[0] : high[0], low[1] : high[1]]
        if not inside.numel():
            return
        weights = inside[..., -1].numpy()
        found = (inside[..., :-1] / inside[..., -1:]).max(dim=-1).indices.numpy().astype(np.uint8)
        self.counts += np.bincount(found[weights > 0], minlength=len(self.counts))
        found[weights == 0] = self.skipped_value
        rows, columns = (slice(each + a, each + b) for each, a, b in zip(corner, low, high, strict=True))
        self.labels.array[rows, columns] = found
        self.labels.touched(len(found) * (found.shape[1] + PAGE))
