"""Progress: shown on a terminal, silent elsewhere."""

import io
import sys

import pytest

from medmixers.progress import note, progress, steps


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_it_is_shown_on_a_terminal_only(kind, monkeypatch):
    screen = kind()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(progress(iter(range(3)), "count cases", total=3)) == [0, 1, 2]
    with steps("share a model") as announce:
        announce("read the weights")
    shown = screen.getvalue()
    assert ("count cases" in shown, "step 1" in shown, "read the weights" in shown) == (screen.isatty(),) * 3
    note("one line")
    assert "one line\n" in screen.getvalue()
