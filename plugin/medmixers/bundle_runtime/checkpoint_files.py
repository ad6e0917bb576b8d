"""Files of weights and of training states, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite import distributed
from ignite.handlers.checkpoint import BaseSaveHandler

from medmixers.bundle_runtime.stack import one_line_in_command
from medmixers.files import written_whole


class WholeFiles(BaseSaveHandler):
    """ignite's save handler that writes each file whole or not at all; the first rank writes.

    MONAI's own writes in place, after the file before is deleted: a kill or a full disk would leave neither.

    Args:
        folder: of the files.
        filename: one name for all files, each of which replaces the one before; None takes ignite's names.
    """

    def __init__(self, folder: str | Path, filename: str | None = None) -> None:
        self.folder, self.filename = Path(folder), filename

    @one_line_in_command()
    def __call__(self, checkpoint: Any, filename: str, metadata: Any = None) -> None:
        """Write what ignite hands over. A full disk ends the process in one line."""
        path = self.folder / (self.filename or filename)
        if distributed.get_rank() > 0:
            return
        with written_whole(path) as partial:
            torch.save(checkpoint, partial)

    def remove(self, filename: str) -> None:
        """Delete a file that ignite no longer keeps."""
        if self.filename is None and distributed.get_rank() == 0:
            (self.folder / filename).unlink(missing_ok=True)
