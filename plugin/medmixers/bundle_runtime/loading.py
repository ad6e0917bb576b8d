"""MONAI's DataLoader, where an image or label that cannot be read ends the process in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from monai.data import DataLoader

from medmixers.bundle_runtime.stack import one_line_in_command
from medmixers.errors import InputError, is_input_error

# torch hands the exception of a worker on as text: its traceback, with the class and message of each cause
IN_WORKER = re.compile(r"^medmixers\.errors\.\w+: (.+)$", re.MULTILINE)


class OneLineLoader(DataLoader):
    """MONAI's DataLoader. The readers of images and labels check each file; their errors end in one line.

    MONAI's transforms wrap an error, a worker makes text of it, and the engines print both with a traceback.
    """

    @one_line_in_command()
    def _first_cause(self, error: Exception) -> None:
        cause: BaseException | None = error
        while cause is not None and not is_input_error(cause):
            cause = cause.__cause__
        if cause is not None:
            raise cause
        if found := IN_WORKER.search(str(error)):
            raise InputError(found[1]) from error

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Batches. An input error is raised without MONAI's and torch's around it."""
        batches = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                self._first_cause(error)
                raise
            yield batch
