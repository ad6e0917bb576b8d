"""Processes of Python that start without the seconds of their imports.

``subprocess.run([preloaded.python(), "-m", "monai.bundle", ...])`` stands for ``[sys.executable, "-m", ...]``: a
process with its own environment, folder, streams, signals and exit status. A server that has imported torch, MONAI and
nnU-Net forks it, and those that it starts by ``sys.executable``. Each process imports this package itself.

Python itself is started by tests of imports and of hidden packages, and where a library reads a variable while it is
imported (``nnUNet_n_proc_DA``, ``TRITON_INTERPRET``): there the server's environment would count. It also starts the
commands of nnU-Net that start workers: these would have to fork from a process with threads, and hang.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

IMPORTED = ("monai.bundle", "monai.engines", "monai.handlers", "ignite.handlers", "ignite.metrics")
IMPORTED += ("torch.utils.tensorboard", "nnunetv2.run.run_training", "nnunetv2.evaluation.evaluate_predictions")
IMPORTED += ("nnunetv2.inference.predict_from_raw_data", "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints")
# nnU-Net's training takes every core: its waiting threads must not spin where other processes run.
READ_WHEN_IMPORTED = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
READ_WHEN_IMPORTED |= {"nnUNet_def_n_proc": "1", "nnUNet_n_proc_DA": "0"}
FORWARDED = (signal.SIGINT, signal.SIGTERM)


@cache
def python() -> str:
    """The command in place of ``sys.executable``. The first call of a test process starts its server."""
    folder = Path(tempfile.mkdtemp(prefix="preloaded-"))
    command, address = folder / "python", folder / "socket"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -SEs {__file__} {address} "$@"\n')
    command.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen()
        environment = {**os.environ, **READ_WHEN_IMPORTED}
        # The server ends with this process, which holds the other end of its standard input.
        python.server = subprocess.Popen(  # type: ignore[attr-defined]
            [sys.executable, __file__, "serve", str(folder), str(listener.fileno())],
            pass_fds=[listener.fileno()], stdin=subprocess.PIPE, env=environment, start_new_session=True,
        )  # fmt: skip
    return str(command)


def client(address: str, words: Sequence[str]) -> NoReturn:
    """Ask the server for a process with the streams, environment and folder of this one, and end as it ends."""
    request = json.dumps({"words": words, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(request)
        answer = server.makefile("r")
        answer.readline()  # it has begun
        for number in FORWARDED:
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
        status = int(answer.readline())
    if status < 0:
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(listener: socket.socket, folder: str) -> dict[str, Any]:
    """Fork a process for each request; returns in those processes only, with their request."""
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:  # the tests have ended
            shutil.rmtree(folder)
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return supervise(connection)
        connection.close()
        while not_waited_for():
            pass


def not_waited_for() -> bool:
    """Wait for one child that has ended; False where there is none."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def supervise(connection: socket.socket) -> dict[str, Any]:
    """Fork the process of a request, hand signals on to it, and report its end; kill it where its client was killed.

    The process has its own group: what it sends to its group never reaches the tests. Its number can be no other
    process's when a signal is sent: only this function waits for it.
    """
    head, streams, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as content:
        request: dict[str, Any] = json.loads(content.read(int.from_bytes(head, "big")))
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        return request
    for stream in streams:
        os.close(stream)  # else a pipe would not end with the process
    with suppress(ConnectionError):  # its client was killed: the first look at the connection tells it
        connection.sendall(b"begun\n")
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
            os._exit(0)
        if select.select([connection], [], [], 0.01)[0]:
            try:
                sent = connection.recv(1)
            except ConnectionResetError:  # closed by a client that had not read all
                sent = b""
            os.kill(pid, sent[0] if sent else signal.SIGKILL)
            if not sent:
                os._exit(0)


def run(request: dict[str, Any], executable: str) -> None:
    """What the words ask for, as Python runs it: ``-m MODULE``, ``-c CODE`` or a script, and its arguments."""
    import numpy

    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    numpy.random.seed()
    sys.executable = executable
    words = request["words"]
    if words[0] == "-u" or os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    first, *rest = words[words[0] == "-u" :]
    places = {"-m": os.getcwd(), "-c": ""}
    given = [os.path.abspath(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    others = [each for each in sys.path if each not in given]
    sys.path[:] = [places.get(first, os.path.dirname(os.path.realpath(first))), *given, *others]
    if first == "-m":
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv[:] = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    else:
        sys.argv[:] = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def end(request: dict[str, Any], executable: str) -> NoReturn:
    """Run it and end the process as Python does, without the two seconds that freeing so many modules takes."""
    status = 1
    try:
        run(request, executable)
        status = 0
    except BaseException as error:
        status = status_of(error)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BrokenPipeError):
            stream.flush()
    os._exit(status & 0xFF)


def status_of(error: BaseException) -> int:
    """Exit status of a process that ends with an error, which its own hook may print and replace."""
    if not isinstance(error, SystemExit):
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except SystemExit as ending:
            error = ending
        else:
            return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return 1


def main() -> None:
    if sys.argv[1] != "serve":
        client(sys.argv[1], sys.argv[2:])
    folder, listener = sys.argv[2], socket.socket(fileno=int(sys.argv[3]))
    sys.path.pop(0)  # the folder of this file
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy its memory
    end(serve(listener, folder), f"{folder}/python")


if __name__ == "__main__":
    main()
