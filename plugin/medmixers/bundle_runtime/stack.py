"""What a component of a config can learn about the run that builds it.

MONAI hands a component its arguments and nothing else of the config. The objects that build it are its callers, so they
are found in the call stack. Outside of a run there are none, and the checks that need them are skipped.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from medmixers.errors import one_line_errors


def calling(name: str) -> Any | None:
    """The nearest caller that is a method of a class of ``monai.bundle``; None where there is no such caller.

    Args:
        name: of the class: "ConfigWorkflow" or "ConfigParser".
    """
    kind = getattr(sys.modules.get("monai.bundle"), name, None)
    frame = inspect.currentframe()
    while kind is not None and frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, kind):
            return owner
        frame = frame.f_back
    return None


def is_monais_command() -> bool:
    """Whether this process is ``python -m monai.bundle``, and not a client such as 3D Slicer or a notebook."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return specification is not None and specification.name == "monai.bundle.__main__"


@contextmanager
def one_line_in_command() -> Iterator[None]:
    """An input error ends MONAI's command in one line and with status 2. A client's process gets the exception."""
    if not is_monais_command():
        yield
        return
    with one_line_errors():
        yield
