"""MONAI's DataLoader, and a handler of its engines: an image or label that cannot be read ends in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from logging import LogRecord
from typing import Any

from ignite.engine import Engine, Events
from monai.data import DataLoader
from torch.utils.data import RandomSampler

from medmixers.bundle_runtime.stack import one_line_in_command
from medmixers.errors import InputError, is_input_error

# torch hands the exception of a worker on as text: its traceback, with the class and message of each cause
IN_WORKER = re.compile(r"^medmixers\.errors\.\w+: (.+)$", re.MULTILINE)

LOST_WORKER = re.compile(r"DataLoader worker.* (exited unexpectedly|is killed by signal)")  # no case follows then


class OneLineLoader(DataLoader):
    """MONAI's DataLoader. An input error of the readers is raised without MONAI's and torch's around it.

    Args:
        dataset: of items.
        iterations: batches per pass, of random permutations of the items, as often as needed; on several GPUs every
            rank draws its own. They replace shuffle and sampler. None: each item once.
        keep_going: yield the exception in place of a batch that cannot be loaded, and go on.
        options: MONAI's and torch's.
    """

    def __init__(
        self, dataset: Any, *, iterations: int | None = None, keep_going: bool = False, **options: Any
    ) -> None:
        if iterations is not None:
            drawn = RandomSampler(dataset, num_samples=iterations * options.get("batch_size", 1))
            options = {**options, "shuffle": False, "sampler": drawn}
        super().__init__(dataset, **options)
        self.keep_going = keep_going

    def __iter__(self) -> Iterator[Any]:
        """Batches."""
        batches = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                cause = input_error(error)
                if self.keep_going and not LOST_WORKER.search(str(error)):
                    yield cause or error
                    continue
                if cause is None:
                    raise
                raise cause from error
            yield batch


class OneLineErrors:
    """End MONAI's command in one line at an input error. Put it first: ignite and StatsHandler print tracebacks."""

    def attach(self, engine: Engine) -> None:
        """engine: any of MONAI's."""
        engine.add_event_handler(Events.EXCEPTION_RAISED, self)
        engine.logger.addFilter(_is_no_announcement)

    @one_line_in_command()
    def __call__(self, engine: Engine, error: BaseException) -> None:
        """Raise an input error, or the end that another engine made of one; handlers that follow get the others."""
        if isinstance(error, SystemExit) or is_input_error(error):
            raise error


def input_error(error: BaseException | None) -> BaseException | None:
    """The input error among the causes of an exception."""
    if error is None or is_input_error(error):
        return error
    found = IN_WORKER.search(str(error))
    return InputError(found[1]) if found else input_error(error.__cause__)


def _is_no_announcement(record: LogRecord) -> bool:
    """Whether a line of ignite's log says more than that an exception will follow."""
    return " run is terminating due to exception" not in record.getMessage()
