"""One rule for errors of input: one line and exit status 2; every other exception keeps its traceback."""

import os
import signal
import subprocess
import sys

import pytest

from medmixers.errors import TRACEBACK_VARIABLE, InputError, MissingFileError, one_line_errors


@pytest.fixture(autouse=True)
def no_traceback_asked(monkeypatch):
    monkeypatch.delenv(TRACEBACK_VARIABLE, raising=False)


def test_an_input_error_ends_in_one_line(capsys):
    with pytest.raises(SystemExit) as exit, one_line_errors("tool"):
        raise MissingFileError("there is no\n  file 'a'")
    assert exit.value.code == 2
    assert capsys.readouterr().err == "tool: error: there is no file 'a'\n"


def test_the_systems_error_about_a_file_ends_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit), one_line_errors("tool"):
        (tmp_path / "gone").read_text()
    assert str(tmp_path / "gone") in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, KeyError, RuntimeError, OSError, TypeError])
def test_a_bug_passes(error):
    with pytest.raises(error, match="a bug"), one_line_errors("tool"):
        raise error("a bug")


def test_a_traceback_on_request(monkeypatch):
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(InputError), one_line_errors("tool"):
        raise InputError("bad")


@pytest.mark.parametrize(
    ("error", "variables", "status", "lines"),
    [
        ("InputError('bad')", {}, 2, ["tool: error: bad"]),
        ("InputError('bad')", {TRACEBACK_VARIABLE: "1"}, 1, ["Traceback", "medmixers.errors.InputError: bad"]),
        ("ValueError('a bug')", {}, 1, ["Traceback", "ValueError: a bug"]),
    ],
)
def test_a_process_with_another_main_function(error, variables, status, lines):
    code = (
        "from medmixers.errors import InputError, end_in_one_line\n"
        "end_in_one_line('tool'); end_in_one_line('tool')\n"
        f"try:\n    raise {error}\nexcept ValueError as caught:\n    print('seen', caught, flush=True)\n    raise"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables}, check=False
    )
    shown = out.stderr.splitlines()
    assert out.returncode == status
    assert out.stdout.startswith("seen "), "a caller still gets the exception"
    assert shown[0].startswith(lines[0])
    assert shown[-1] == lines[-1]


STOPPED = """
import os, signal, sys, time
from medmixers.errors import end_in_one_line
end_in_one_line('tool')
if sys.argv[1] == 'fork' and os.fork() == 0:
    os.kill(os.getpid(), signal.SIGTERM)
if sys.argv[1] == 'fork':
    print(os.waitstatus_to_exitcode(os.wait()[1]))
else:
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(5)
"""


@pytest.mark.parametrize(
    ("stop", "status", "line"),
    [(signal.SIGINT, 130, "tool: interrupted\n"), (signal.SIGTERM, 143, "tool: terminated\n")],
)
def test_a_stopped_process_with_another_main_function(stop, status, line):
    out = subprocess.run([sys.executable, "-c", STOPPED, str(int(stop))], capture_output=True, text=True, check=False)
    assert (out.returncode, out.stderr) == (status, line)


def test_a_pool_can_end_its_workers():
    """A fork that waits in a semaphore, as a pool's worker does, must not wait for Python to run a handler."""
    code = (
        "import os, signal\nfrom medmixers.errors import end_in_one_line\nend_in_one_line('tool')\n"
        "if (pid := os.fork()) == 0: os._exit(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), signal.getsignal(signal.SIGTERM).__name__)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "1 _raise_terminated\n"


def test_a_forked_worker_is_terminated_as_ever():
    out = subprocess.run([sys.executable, "-c", STOPPED, "fork"], capture_output=True, text=True, check=False)
    assert (out.stdout, out.stderr) == (f"-{int(signal.SIGTERM)}\n", "")


def test_a_fork_is_terminated_before_its_first_line_too():
    """nnU-Net's planner ends pools that it has just begun. Without the hooks 20 of 20 forks forget the signal."""
    code = (
        "import os, signal, time\nfrom medmixers.errors import end_in_one_line\nend_in_one_line('tool')\n"
        "for _ in range(20):\n"
        "    if (pid := os.fork()) == 0: time.sleep(5); os._exit(0)\n"
        "    os.kill(pid, signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n") == [f"-{int(signal.SIGTERM)}"] * 20 + ["set()", ""]
