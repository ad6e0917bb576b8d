"""The model that `medmixers explain` is given: a folder of nnU-Net's results, a bundle, or the zip of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from medmixers.bundles.share.archive import open_archive
from medmixers.errors import InputError, MissingFileError
from medmixers.explain.bundle_case import BundleModel
from medmixers.explain.case import Case
from medmixers.explain.labels import IGNORED
from medmixers.explain.source import channel_names
from medmixers.images.dicom_seg import read_segments
from medmixers.progress import Announce, silent


class Model:
    """A trained model; its network is loaded with the first case.

    Args:
        folder: of an nnU-Net model or of a bundle.
        fold: of an nnU-Net model's weights; the first found by default.
        checkpoint: file name in the fold, or for a bundle a file of weights.
        device: as torch names it.
        announce: called with the name of each step.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        fold: str | None = None,
        checkpoint: str | None = None,
        device: str = "cpu",
        announce: Announce = silent,
    ) -> None:
        self.folder = Path(folder)
        self.is_bundle = (self.folder / "configs" / "inference.json").is_file()
        self.is_of_nnunet = not self.is_bundle or (self.folder / "configs" / "nnunet").is_dir()
        if not self.is_of_nnunet and fold is not None:
            raise InputError("--fold is of nnU-Net models; a bundle has one file of weights: --checkpoint FILE")
        if not self.is_bundle and not all((self.folder / name).is_file() for name in ("plans.json", "dataset.json")):
            raise MissingFileError(
                f"{folder} is neither a trained nnU-Net model, with plans.json and dataset.json, nor a bundle, with "
                "configs/inference.json, nor the zip of one"
            )
        self.fold, self.checkpoint, self.device, self.announce = fold, checkpoint, device, announce

    @cached_property
    def _facts(self) -> dict[str, Any]:
        """nnU-Net's dataset.json, or a bundle's metadata."""
        place = self.folder / "configs" / "nnunet" if self.is_bundle else self.folder
        path = place / "dataset.json" if self.is_of_nnunet else self.folder / "configs" / "metadata.json"
        facts: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return facts

    @property
    def _labels(self) -> dict[str, Sequence[int]]:
        """nnU-Net's label or region -> its values, without the background and the ignore label."""
        labels = {name: value if isinstance(value, list) else [value] for name, value in self._facts["labels"].items()}
        return {name: list(map(int, value)) for name, value in labels.items() if value != [0] and name != IGNORED}

    @property
    def channels(self) -> int:
        """Images per case."""
        if self.is_of_nnunet:
            return len(channel_names(self._facts))
        return int(self._facts["network_data_format"]["inputs"]["image"]["num_channels"])

    @property
    def ignored(self) -> list[int]:
        """Values of a label file that mark voxels which do not count: nnU-Net's ignore label."""
        return [int(self._facts["labels"][IGNORED])] if self.is_of_nnunet and IGNORED in self._facts["labels"] else []

    @property
    def outputs(self) -> list[str]:
        """Name of each channel of the logits."""
        if not self.is_of_nnunet:
            names = self._facts["network_data_format"]["outputs"]["pred"]["channel_def"]
            return [names[key] for key in sorted(names, key=int)]
        if not self.classes_exclude_each_other:  # regions, in the order of dataset.json; the background has no channel
            return list(self._labels)
        return ["background", *sorted(self._labels, key=lambda name: self._labels[name][0])]

    @property
    def classes_exclude_each_other(self) -> bool:
        """Whether the logits are of a softmax; else each channel is of a sigmoid."""
        if self.is_of_nnunet:
            return all(len(values) == 1 for values in self._labels.values())
        config = json.loads((self.folder / "configs" / "inference.json").read_text("utf-8"))
        steps = config["postprocessing"]["transforms"]
        return not any(step.get("_target_") == "Activationsd" and step.get("sigmoid") for step in steps)

    @property
    def structures(self) -> Mapping[str, Sequence[int]]:
        """Structure -> the values of a label file that it is made of; empty where the model does not say."""
        if self.is_of_nnunet:
            return self._labels
        segments = read_segments(self.folder.name, self._facts) if "segments" in self._facts else ()
        return {segment.name: segment.values for segment in segments if segment.values is not None}

    def case(self, files: Sequence[Path]) -> Case:
        """A case, of one file per channel, or a picture with all of them."""
        return self._case_of(files)

    @cached_property
    def _case_of(self) -> Callable[[Sequence[Path]], Case]:
        self.announce("load the bundle" if self.is_bundle else "load nnU-Net")
        if not self.is_of_nnunet:
            return BundleModel(self.folder, checkpoint=self.checkpoint, device=self.device).case
        from medmixers.explain.nnunet_case import NnunetBundleModel, NnunetModel

        if self.is_bundle:
            bundle = NnunetBundleModel(self.folder, fold=self.fold, checkpoint=self.checkpoint, device=self.device)
            return partial(bundle.case, announce=self.announce)
        options: dict[str, Any] = {} if self.checkpoint is None else {"checkpoint": self.checkpoint}
        model = NnunetModel(self.folder, fold=self.fold, device=self.device, **options)
        return partial(model.case, announce=self.announce)


@contextmanager
def opened(model: str | Path, *, announce: Announce = silent, **options: Any) -> Iterator[Model]:
    """A :class:`Model`; a zip is unpacked for as long as the ``with`` block lasts, after it is checked.

    The code in a bundle runs: explain bundles of people you trust.

    Args:
        model: folder of an nnU-Net model or of a bundle, or the zip of a bundle.
        announce: called with the name of each step.
        options: further arguments of :class:`Model`.

    Raises:
        InputError: what :func:`medmixers.bundles.share.archive.open_archive` refuses.
    """
    if not Path(model).is_file():
        yield Model(model, announce=announce, **options)
        return
    announce("open the zip")
    with TemporaryDirectory(prefix="medmixers-explain-") as folder:
        yield Model(open_archive(model, folder), announce=announce, **options)
