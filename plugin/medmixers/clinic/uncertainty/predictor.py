"""Probabilities of a bundle's network for a case, and how much its mirrored copies disagree.

Everything is the bundle's own: transforms, windows, weights, and the way back to the voxels of the image file. Labels
are so those that the bundle's inference writes.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medmixers.bundle_runtime.allocator import keep_freed_memory
from medmixers.checkpoints import read_weights
from medmixers.clinic.uncertainty.bundle import Bundle, own_input_errors
from medmixers.clinic.uncertainty.measures import Array, entropy, normalised
from medmixers.clinic.uncertainty.training_images import ImageFacts, Vector, intensity_statistics
from medmixers.errors import InputError

if TYPE_CHECKING:
    import torch

Entry = str | list[str]  # a case: its file, or a file per channel
WAY_BACK = ("EnsureTyped", "Activationsd", "Invertd")  # the transforms from logits to probabilities in the file's grid


@dataclass
class Case:
    """What one model says about a case, on the voxels of the image file, or for the whole image.

    Args:
        probabilities: (K, *spatial) or (K,), of the mean logits of the mirrored copies.
        copies: the mean of the copies' probabilities, of the same shape; the same array without mirroring.
        disagreement: (*spatial) or (), mutual information of the label and the copy; None without mirroring.
        item: the bundle's transformed data: image, and its segmentation as the bundle writes it, before a decision.
        facts: of the image, for a comparison with the training images.
    """

    probabilities: Array
    copies: Array
    disagreement: Array | None
    item: dict[str, Any]
    facts: ImageFacts


class Predictor:
    """The network and the transforms of a bundle, loaded.

    Args:
        bundle: to predict with.
        mirror: predict all mirrored copies along the bundle's ``mirror_axes`` too.
        device: as torch names it; None takes the bundle's choice.

    Raises:
        InputError: weights of another network; a bundle whose images may not be mirrored.
    """

    def __init__(self, bundle: Bundle, *, mirror: bool = False, device: str | None = None) -> None:
        from monai.bundle import ConfigParser

        self.bundle = bundle
        self.parser = ConfigParser()
        self.parser.read_config(str(bundle.folder / "configs" / "inference.json"))
        self.parser["bundle_root"] = str(bundle.folder)
        if device is not None:
            self.parser["device"] = f"$torch.device({device!r})"
        self.parser["use_mirroring"] = False  # here each mirrored copy is predicted for itself
        with own_input_errors(), same_path():
            self.network: Any = self.parser.get_parsed_content("network").eval()
            self.inferer: Any = self.parser.get_parsed_content("inferer")
            self.preprocessing: Any = self.parser.get_parsed_content("preprocessing")
            self.reader: Any = self.parser.get_parsed_content("image_reader")
            self.device: torch.device = self.parser.get_parsed_content("device")
            self.amp = bool(self.parser.get_parsed_content("amp", default=False))
        keep_freed_memory(self.device)
        self.network.load_state_dict(read_weights(str(bundle.weights), self.network))
        axes = [axis + 2 for axis in bundle.mirror_axes] if mirror else []
        if mirror and not axes:
            raise InputError(f"{bundle.source} has no mirror_axes: its images may not be mirrored")
        self.mirrored: list[tuple[int, ...]] = [
            chosen for count in range(len(axes) + 1) for chosen in combinations(axes, count)
        ]
        self.layer: str | None = None  # module whose output is kept as features

    @property
    def members(self) -> int:
        """Number of predictions per image."""
        return len(self.mirrored)

    @property
    def folds(self) -> int:
        """Number of folds that it averages."""
        return 1

    @contextmanager
    def held_out(self, fold: str) -> Iterator[None]:
        """Predict with one fold alone. Raises InputError: the model does not have it."""
        raise InputError(f"{self.bundle.source} has no folds, as the other model of nnU-Net has: calibrate each alone")
        yield

    def choose_layer(self, entry: Entry) -> None:
        """Keep the features of the deepest feature map from now on; a case shows which one that is."""
        self.layer = self.find_layer(self.load(entry)[1])

    @cached_property
    def weights_digest(self) -> str:
        """SHA-256 of the tensors: files of the same weights differ."""
        import torch

        digest = hashlib.sha256()
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def cases(self, images: Path) -> list[Entry]:
        """The cases that the bundle finds in a folder, a data set, a DICOM series or a file."""
        self.parser["dataset_dir"], self.parser["datalist::missing_ok"] = str(images), False
        with own_input_errors(), same_path():
            found: list[Entry] = self.parser.get_parsed_content("datalist", instantiate=True)
        return found

    def predict(self, entry: Entry) -> Case:
        """Predict a case. Raises InputError: an image that the bundle refuses, or values that are not finite."""
        item, image = self.load(entry)
        features: list[Vector] = []
        with self._keeping(features):
            logits = self._logits(image, ())
        exclusive, flips = self.bundle.exclusive, self.mirrored[1:]
        if not flips:
            p = self._activated(logits)
            return self._on_file(item, p, p, None, image, features)
        count = len(self.mirrored)
        total, copies = logits, self._activated(logits) / count
        inner = entropy(copies * count, exclusive=exclusive) / count
        for flip in flips:
            logits = self._logits(image, flip)
            total = total + logits
            p = self._activated(logits)
            copies += p / count
            inner += entropy(p, exclusive=exclusive) / count
        disagreement = np.maximum(entropy(copies, exclusive=exclusive) - inner, 0)
        return self._on_file(item, self._activated(total / count), copies, disagreement, image, features)

    def facts(self, entry: Entry) -> ImageFacts:
        """Of an image, without mirrored copies and without its way back."""
        item, image = self.load(entry)
        features: list[Vector] = []
        if self.layer is not None:
            with self._keeping(features):
                self._logits(image, ())
        return self._facts(item, image, features)

    def load(self, entry: Entry) -> tuple[dict[str, Any], torch.Tensor]:
        """The transformed data of a case, and its image as the network takes it, (1, C, *spatial)."""
        with own_input_errors():
            self.reader.check_case([Path(file) for file in ([entry] if isinstance(entry, str) else entry)])
            item = self.preprocessing({"image": entry})
        return item, item["image"].as_tensor()[None].to(self.device)

    def find_layer(self, image: torch.Tensor) -> str | None:
        """Name of the module with the deepest feature map, the last one of the smallest with several voxels."""
        import torch

        found: list[tuple[int, int, str]] = []

        def keep(name: str) -> Callable[..., None]:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                if isinstance(output, torch.Tensor) and output.ndim == first.ndim and len(output) == len(first):
                    voxels = int(np.prod(output.shape[2:]))
                    found.append((0 if voxels > 1 else 1, voxels, name))

            return hook

        class Done(Exception):
            pass

        first = image

        def once(windows: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            nonlocal first
            first = windows
            hooks = [each.register_forward_hook(keep(name)) for name, each in self.network.named_modules() if name]
            try:
                self.network(windows)
            finally:
                for hook in hooks:
                    hook.remove()
            raise Done

        try:
            with torch.inference_mode():
                self.inferer(image, once)
        except Done:
            pass
        smallest = min((each[:2] for each in found), default=None)
        return next((name for *size, name in reversed(found) if tuple(size) == smallest), None)

    @contextmanager
    def _keeping(self, features: list[Vector]) -> Iterator[None]:
        """Add the means of each window's feature map, (C,), to ``features``."""
        modules = dict(self.network.named_modules())
        if self.layer not in modules:
            yield
            return

        def keep(module: Any, inputs: Any, output: Any) -> None:
            features.extend(output.detach().float().flatten(2).mean(-1).cpu().numpy().astype(np.float64))

        hook = modules[self.layer].register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def _logits(self, image: torch.Tensor, flip: tuple[int, ...]) -> Array:
        """(K, *spatial) or (K,): of windows that are mirrored along these axes, each mirrored back."""
        import torch

        def mirrored(windows: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            logits = self.network(torch.flip(windows, flip))
            return torch.flip(logits, flip) if logits.ndim == windows.ndim else logits

        with torch.inference_mode(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=self.amp):
            logits = self.inferer(image, mirrored if flip else self.network)[0].float().cpu().numpy()
        if not np.isfinite(logits).all():
            raise InputError(f"the network of {self.bundle.source} gives values that are not finite for this image")
        return logits

    def _activated(self, logits: Array) -> Array:
        """Softmax or sigmoid, as the bundle has it."""
        import torch

        values = torch.from_numpy(logits)
        return (values.softmax(0) if self.bundle.exclusive else values.sigmoid()).numpy()

    def _on_file(
        self,
        item: dict[str, Any],
        p: Array,
        copies: Array,
        disagreement: Array | None,
        image: torch.Tensor,
        features: Sequence[Vector],
    ) -> Case:
        facts = self._facts(item, image, features)
        if not self.bundle.is_segmentation:
            return Case(p, copies, disagreement, {**item, "pred": p}, facts)
        count = len(p)
        stack = p if disagreement is None else np.concatenate([p, copies, disagreement[None]])
        back = self._way_back(item, stack)
        values = np.asarray(back["pred"], np.float32)
        back["pred"] = back["pred"][:count]

        def whole(part: Array) -> Array:
            return normalised(part) if self.bundle.exclusive else np.clip(part, 0, 1)

        probabilities = whole(values[:count])
        if disagreement is None:
            return Case(probabilities, probabilities, None, back, facts)
        return Case(probabilities, whole(values[count:-1]), np.maximum(values[-1], 0), back, facts)

    def _way_back(self, item: dict[str, Any], maps: Array) -> dict[str, Any]:
        """The item with maps (N, *spatial) as "pred", on the voxels of the image file."""
        import torch
        from monai.data import MetaTensor
        from monai.transforms import Invertd

        image = item["image"]
        back = {**item, "pred": MetaTensor(torch.from_numpy(maps), meta=image.meta)}
        back["pred"].applied_operations = image.applied_operations
        invert = Invertd("pred", self.preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True)
        return dict(invert(back))

    @cached_property
    def postprocessing(self) -> list[Any]:
        """The bundle's transforms of a prediction. Set ``output_dir`` of the parser first."""
        with own_input_errors(), same_path():
            return list(self.parser.get_parsed_content("postprocessing").transforms)

    def decide(self, case: Case) -> dict[str, Any]:
        """Run the rest of the bundle's transforms on ``case.item``: they decide, and write the files."""
        item = case.item
        with own_input_errors():
            for transform in self.postprocessing:
                if type(transform).__name__ == "InvertedLabelsd":
                    item = {**item, "pred": self._labels(item["pred"], transform)}
                elif type(transform).__name__ not in WAY_BACK:
                    item = transform(item)
        return item

    def _labels(self, probabilities: Any, transform: Any) -> Any:
        """What the bundle's InvertedLabelsd makes of probabilities that are on the voxels of the file already."""
        if self.bundle.exclusive:
            return probabilities.argmax(dim=0, keepdim=True)
        masks = (probabilities >= 0.5).float()
        if transform.regions is None:
            return masks
        return sys.modules[type(transform).__module__].regions_to_ids(masks, transform.regions)  # its own copy

    def _facts(self, item: dict[str, Any], image: torch.Tensor, features: Sequence[Vector]) -> ImageFacts:
        mean = np.mean(features, axis=0) if features else None
        return ImageFacts(_spacing(item["image"].meta), intensity_statistics(image[0].cpu().numpy()), mean)


def _spacing(meta: dict[str, Any]) -> Vector:
    """Millimetres along the patient's axes (right, anterior, superior) of the file; a picture's own two axes."""
    from nibabel.orientations import io_orientation

    affine = np.asarray(meta.get("original_affine", meta["affine"]), np.float64)
    dims = min(len(np.atleast_1d(meta.get("spatial_shape", (1, 1, 1)))), 3)
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if dims < 3:
        return sizes[:dims]
    return sizes[np.argsort(io_orientation(affine)[:, 0])]


@contextmanager
def same_path() -> Iterator[None]:
    """The config of a bundle puts its folder on Python's path."""
    paths = sys.path[:]
    try:
        yield
    finally:
        sys.path[:] = paths
