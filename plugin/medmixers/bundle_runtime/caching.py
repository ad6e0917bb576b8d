"""The data sets of a training and an evaluation, whose preprocessed cases are kept in memory or on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from copy import deepcopy
from enum import Enum
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from ignite import distributed
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import Compose, RandomizableTrait, Transform
from monai.utils import convert_to_tensor

from medmixers.bundle_runtime.cache_keys import described, with_file_facts
from medmixers.checkpoints import read_checkpoint
from medmixers.errors import ExistingFileError, InputError
from medmixers.files import code_digest, written_whole

ROOMS = ("bundle_runtime", "datasets", "images")  # of this package: what reads and checks images and labels


def cached_dataset(
    *, data: Sequence[Any], transform: Compose, cache_rate: float, cache_dir: str | None, num_workers: int
) -> CacheDataset | PersistentDataset:
    """MONAI's CacheDataset, or with a folder its PersistentDataset. Only the transforms before a random one are cached.

    Args:
        data: the cases.
        transform: of a case.
        cache_rate: part of the cases that is kept in memory, from 0 to 1; unused with a folder.
        cache_dir: folder for the preprocessed cases, or None.
        num_workers: threads that fill the memory.

    Raises:
        InputError: the transforms hold what a key cannot be made of.
    """
    if cache_dir is not None:
        return DiskCache(data, transform, cache_dir)
    return CacheDataset(data, transform, cache_rate=cache_rate, num_workers=num_workers, progress=False)


class DiskCache(PersistentDataset):
    """PersistentDataset that serves a case only where nothing has changed that made it.

    The name of a cached file is a digest of the case, size and times of its files, the deterministic transforms with
    all of their attributes, the code of this package, and the versions of MONAI, torch and NumPy.

    Args:
        data: the cases.
        transform: of a case.
        cache_dir: a folder; several trainings may share it.
    """

    def __init__(self, data: Sequence[Any], transform: Compose, cache_dir: str) -> None:
        super().__init__(data, transform, cache_dir=None, track_meta=True)
        self.folder = Path(cache_dir)
        self.made_by = preprocessing_facts(transform)
        if distributed.get_rank() == 0:
            there = sum(self.file_of(case).is_file() for case in self.data)
            print(f"medmixers: note: {there} of {len(self.data)} cases are cached in {self.folder}", flush=True)

    def file_of(self, case: Any) -> Path:
        """The file of a preprocessed case."""
        facts = json.dumps([self.made_by, described(case), with_file_facts(case)])
        return self.folder / f"{hashlib.sha256(facts.encode()).hexdigest()}.pt"

    def set_data(self, data: Sequence[Any]) -> None:
        """Take other cases. Nothing is deleted: their files have other names."""
        self.data = data

    def _cachecheck(self, item_transformed: Any) -> Any:
        file = self.file_of(item_transformed)
        if file.is_file():
            with suppress(InputError):  # damaged: written again
                return read_checkpoint(file, also=_metadata_classes())
        case = self._pre_transform(deepcopy(item_transformed))
        if self.file_of(item_transformed) == file:  # no file was changed while it was read
            _write(file, convert_to_tensor(case, convert_numeric=False, track_meta=True))
        return case


def preprocessing_facts(transform: Compose) -> list[Any]:
    """What a preprocessed case depends on besides its files: transforms, code, versions; as JSON holds it."""
    transforms = transform.flatten().transforms
    is_last = (isinstance(each, RandomizableTrait) or not isinstance(each, Transform) for each in transforms)
    count = next((index for index, stops in enumerate(is_last) if stops), len(transforms))
    versions = [monai.__version__, torch.__version__, np.__version__]
    return [[described(each) for each in transforms[:count]], code_digest(Path(__file__).parents[1], ROOMS), versions]


def _metadata_classes() -> list[Any]:
    """What a file of MONAI's MetaTensor names in its metadata and history: NumPy's arrays, and MONAI's enumerations."""
    rebuild = np.zeros(0).__reduce__()[0]
    arrays = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    named = [each for each in vars(monai.utils.enums).values() if isinstance(each, type) and issubclass(each, Enum)]
    return [np.ndarray, *arrays, *named]


def _write(file: Path, content: Any) -> None:
    """Write a preprocessed case whole, unless another process is writing it."""
    with suppress(ExistingFileError), written_whole(file) as partial:
        torch.save(content, partial)
