"""Tensors that lie in a temporary file instead of memory, for logits of large images."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from math import prod
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from medmixers.errors import InputError

HELD = 2**28  # bytes of a file that are held in memory at a time
_MAPPINGS: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()  # address of a tensor's storage -> its file


def zeros_in_file(shape: Sequence[int]) -> Tensor:
    """A float32 tensor of zeros in a file without a name, which the system deletes with the tensor.

    The file lies in the folder of temporary files: the environment's TMPDIR.

    Raises:
        InputError: that folder has too little space.
    """
    size = prod(shape) * torch.float32.itemsize
    with tempfile.TemporaryFile(prefix="medmixers-") as file:
        try:
            if hasattr(os, "posix_fallocate"):  # a full disk would otherwise kill the process later
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(tempfile.gettempdir()).free < size:
                raise OSError
            file.truncate(size)
        except OSError as error:
            raise InputError(
                f"the logits of this image need {size / 2**30:.1f} GiB in {tempfile.gettempdir()}, which has too "
                "little space: set the environment's TMPDIR to a folder on a larger disk, or raise --logits_memory_gb"
            ) from error
        mapping = mmap.mmap(file.fileno(), size)
    values = torch.frombuffer(mapping, dtype=torch.float32)
    _MAPPINGS[values.untyped_storage().data_ptr()] = mapping
    return values.view(*shape)


def is_in_file(tensor: Tensor) -> bool:
    """Whether a tensor, or what it is a view of, is one of :func:`zeros_in_file`."""
    return tensor.untyped_storage().data_ptr() in _MAPPINGS


def release(tensor: Tensor) -> None:
    """Give back the memory that holds parts of a tensor's file; the values stay. Nothing happens to other tensors."""
    mapping = _MAPPINGS.get(tensor.untyped_storage().data_ptr())
    if mapping is not None and hasattr(mapping, "madvise"):  # not on Windows, which trims such memory itself
        mapping.madvise(mmap.MADV_DONTNEED)
