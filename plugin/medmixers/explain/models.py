"""The model that `medmixers explain` is given: a folder of nnU-Net's results, or of a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from medmixers.errors import InputError, MissingFileError
from medmixers.explain.bundle_case import BundleModel, bundle_channels
from medmixers.explain.case import Case
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
        if self.is_bundle and fold is not None:
            raise InputError("--fold is of nnU-Net models; a bundle has one file of weights: --checkpoint FILE")
        if not self.is_bundle and not all((self.folder / name).is_file() for name in ("plans.json", "dataset.json")):
            raise MissingFileError(
                f"{folder} is neither a trained nnU-Net model, with plans.json and dataset.json, nor a bundle, with "
                "configs/inference.json"
            )
        self.fold, self.checkpoint, self.device, self.announce = fold, checkpoint, device, announce

    @property
    def channels(self) -> int:
        """Images per case."""
        if self.is_bundle:
            return bundle_channels(self.folder)
        return len(json.loads((self.folder / "dataset.json").read_text("utf-8"))["channel_names"])

    def case(self, files: Sequence[Path]) -> Case:
        """A case, of one NIfTI file per channel."""
        return self._case_of(files)

    @cached_property
    def _case_of(self) -> Callable[[Sequence[Path]], Case]:
        if self.is_bundle:
            self.announce("load the bundle")
            return BundleModel(self.folder, checkpoint=self.checkpoint, device=self.device).case
        self.announce("load nnU-Net")
        from medmixers.explain.nnunet_case import NnunetModel

        options: dict[str, Any] = {} if self.checkpoint is None else {"checkpoint": self.checkpoint}
        model = NnunetModel(self.folder, fold=self.fold, device=self.device, **options)
        return partial(model.case, announce=self.announce)
