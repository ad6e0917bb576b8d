"""A preloaded process ends, speaks and dies as one that Python itself starts."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import preloaded

CODES = {
    "streams": "import sys; print(sys.stdin.read()); print('wrong', file=sys.stderr)",
    "place": "import os, sys; print(os.getcwd(), os.environ['GIVEN'], sys.argv, 'medmixers' in sys.modules)",
    "status": "raise SystemExit(3)",
    "text": "raise SystemExit('one line')",
    "hook": "import sys; sys.excepthook = lambda kind, error, trace: sys.exit(f'one line: {error}'); 1 / 0",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "ending": "import atexit; atexit.register(print, 'last'); print('first')",
    "inner": "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'raise SystemExit(4)']).returncode)",
}


def run(python, *words, **options):
    done = subprocess.run([python, *words], capture_output=True, text=True, input="given", **options)
    return done.returncode, done.stdout, done.stderr


def ends(pid):
    """Whether a process is gone within ten seconds."""
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.01)
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("code", CODES)
def test_a_process_is_as_pythons(code, tmp_path):
    options = {"cwd": tmp_path, "env": {**os.environ, "GIVEN": "x"}}
    found, expected = (run(each, "-c", CODES[code], "a b", **options) for each in (preloaded.python(), sys.executable))
    assert found == expected


def test_a_module_and_a_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(__name__, __file__, sys.argv, sys.path[0])")
    for words in ((script, "a"), ("-m", "json.tool", "--help"), ("-u", "-m", "script", "a")):
        assert run(preloaded.python(), *words, cwd=tmp_path) == run(sys.executable, *words, cwd=tmp_path)


def test_an_error_has_its_traceback():
    status, _, err = run(preloaded.python(), "-c", "1 / 0")
    assert status == 1
    assert err.splitlines()[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_process_and_not_only_its_client(number, tmp_path):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([preloaded.python(), "-c", code], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        pid = int(client.stdout.readline())
        client.send_signal(number)
        assert client.wait(10) == -number
    assert ends(pid)


def test_a_process_ends_with_a_client_that_was_killed_before_it_read_anything(tmp_path):
    """Its connection is then reset, not closed."""
    words = ["-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
    request = json.dumps({"words": words, "environment": dict(os.environ), "folder": str(tmp_path)}).encode()
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX) as server, open(reader) as printed:
        server.connect(str(Path(preloaded.python()).with_name("socket")))
        socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, writer, 2])
        server.sendall(request)
        os.close(writer)
        pid = int(printed.readline())
    assert ends(pid)


def test_a_process_that_kills_its_group_kills_neither_its_server_nor_the_tests():
    out = subprocess.run([preloaded.python(), "-c", "import os, signal; os.kill(0, signal.SIGKILL)"], check=False)
    assert out.returncode == -signal.SIGKILL
    assert run(preloaded.python(), "-c", "print('on')") == (0, "on\n", "")
