"""A real Slurm on this machine, for tests: one controller, one node with two pretend GPUs, no systemd.

Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge. Everything lies in one folder, and the
commands find it by SLURM_CONF: a Slurm of the machine's own is not touched.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
WAIT = 30  # seconds until the node is there
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,sched_interval=1,bf_interval=1
MpiDefault=none
KillWait=5
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=1000 Gres=gpu:2
PartitionName=gpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
PRETEND_GPUS = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"


def why_not() -> str:
    """Why no Slurm can be started here; empty where it can."""
    if os.geteuid():
        return "starting a real Slurm needs root"
    lacking = [name for name in PROGRAMS if _program(name) is None]
    return f"no {', '.join(lacking)}: apt-get install slurmctld slurmd slurm-client munge" if lacking else ""


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


@contextmanager
def real_slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start Slurm in a folder; yields the variables that its commands need. It is stopped at the end.

    Raises:
        NotStarted: the daemons do not run here, as in some containers.
    """
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    for name in ("state", "spool"):
        (folder / name).mkdir()
    text = CONFIGURATION.format(host=_host(), folder=folder, ports=_free_ports())
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(PRETEND_GPUS)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    munge = [f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "key-file", "log-file", "pid-file",
                                                                          "seed-file")]  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(_running(folder, "munged", "--foreground", "--force", *munge))
        _wait(lambda: (folder / "munge.socket").exists(), folder)
        for daemon in ("slurmctld", "slurmd"):
            stack.enter_context(_running(folder, daemon, "-D", **variables))
        _wait(lambda: "idle" in _said(variables, "sinfo", "--noheader", "--format=%T"), folder)
        yield variables


def end_all_jobs() -> None:
    """Cancel what a failed test left: it would hold the node for the next test, and live on after Slurm."""
    _said({}, "scancel", "--state=PENDING")
    _said({}, "scancel", f"--nodelist={_host()}")
    end = time.monotonic() + WAIT
    while _said({}, "squeue", "--noheader") and time.monotonic() < end:
        time.sleep(0.2)


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _said(variables: dict[str, str], *words: str) -> str:
    return subprocess.run(words, env={**os.environ, **variables}, capture_output=True, text=True, check=False).stdout


@contextmanager
def _running(folder: Path, name: str, *words: str, **variables: str) -> Iterator[None]:
    with open(folder / f"{name}.log", "w") as log:
        daemon = subprocess.Popen(
            [str(_program(name)), *words], env={**os.environ, **variables}, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    try:
        yield
    finally:
        daemon.terminate()
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


class NotStarted(Exception):
    """Slurm's daemons do not run here."""


def _wait(condition: Callable[[], bool], folder: Path) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > end:
            raise NotStarted("\n".join(file.read_text()[-500:] for file in folder.glob("*.log")))
        time.sleep(0.05)


def _free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
