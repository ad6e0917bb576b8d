"""Processes that end with the process that started them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from medmixers.processes import run_python

CHILD = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
PARENT = f"import sys; from medmixers.processes import run_python; run_python(['-c', {CHILD!r}, sys.argv[1]])"


def test_output_and_status_come_back(tmp_path: Path) -> None:
    done = run_python(["-c", "import os; print(os.getcwd()); raise SystemExit(3)"], cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == (f"{tmp_path}\n", "", 3)


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_a_process_ends_after_its_parent_was_killed(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(file)])
    wait_until(lambda: file.is_file() and file.read_text() != "")
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_running(int(file.read_text())))


def wait_until(is_so) -> None:
    for _ in range(200):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError("it took too long")


def is_running(pid: int) -> bool:
    """A zombie, which nobody has waited for, has ended."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"
