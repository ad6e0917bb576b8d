"""No test ends the process of the tests unseen, and no run of the tests waits for ever."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import own_process
from own_process import OwnProcessError

ENDED = "import os, signal, sys; sys.path.insert(0, sys.argv[1]); import own_process; own_process.protect()\n"
# A run with two workers, as scripts/test.sh starts it: one worker dies or hangs in C, where no signal reaches Python.
RUN = {
    "dies": "import ctypes, os; ctypes.CDLL(None).kill(os.getpid(), 9)",
    "hangs": "import ctypes; c, lock = ctypes.CDLL(None), bytes(64); c.pthread_mutex_lock(lock); "
    "c.pthread_mutex_lock(lock)",
}

ENDS_HANGING = pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 8 ends no test that hangs in C")


@pytest.mark.parametrize("which", ["own group", "all", "own", "parent", "group by number"])
def test_a_signal_that_would_end_the_tests_is_an_error(which):
    group = -os.getpgid(0)
    targets = {"own group": 0, "all": -1, "own": os.getpid(), "parent": os.getppid(), "group by number": group}
    target = targets[which]
    with pytest.raises(OwnProcessError, match=rf"signal 9 to {target} would end the tests, process {os.getpid()}"):
        os.kill(target, signal.SIGKILL)


def test_nor_does_the_group_or_a_fork():
    for target in (0, os.getpgid(0)):
        with pytest.raises(OwnProcessError):
            os.killpg(target, signal.SIGTERM)
    if (pid := os.fork()) == 0:
        try:
            os.kill(os.getppid(), signal.SIGKILL)
        except OwnProcessError:
            own_process.leave(3)
        own_process.leave(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3


def test_what_ends_nothing_is_sent(monkeypatch):
    sent = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: sent.append(number))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sent == [signal.SIGTERM]
    os.kill(os.getpid(), 0)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        child.kill()
    assert child.returncode == -signal.SIGKILL


def test_an_end_at_once_says_from_where():
    folder = str(Path(own_process.__file__).parent)
    out = subprocess.run([sys.executable, "-c", ENDED + "os._exit(5)", folder], capture_output=True, text=True)
    assert out.returncode == 5
    assert out.stderr.startswith("os._exit(5) in the process of the tests:\n")
    assert 'File "<string>", line 2' in out.stderr


@pytest.mark.parametrize("what", ["dies", pytest.param("hangs", marks=ENDS_HANGING)])
def test_a_run_ends_with_a_message(what, tmp_path):
    for name, line in (("test_a", RUN[what]), ("test_b", "pass")):
        (tmp_path / f"{name}.py").write_text(f"def test_{what}():\n    {line}\n")
    words = ["-m", "pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-p", "no:cacheprovider"]
    words += ["-c", str(Path(__file__).parents[1] / "pyproject.toml"), "--rootdir", str(tmp_path), str(tmp_path)]
    words += ["-o", "timeout=1", "-o", "faulthandler_timeout=2"]
    out = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert out.returncode == 1
    assert "crashed and worker restarting disabled" in out.stdout
    assert f"FAILED test_a.py::test_{what}" in out.stdout
    assert ("Timeout (0:00:02)!" in out.stderr) == (what == "hangs")
