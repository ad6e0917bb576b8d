"""Run a study on one machine: a queue of devices around the job command."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from medmixers.study.engine.jobs import finished, job_command
from medmixers.study.engine.records import holder, is_locked, locked, needs, run_folder
from medmixers.study.engine.status import describe_job

Command = Callable[[Path, str, str], Sequence[str]]
REFRESH = 1.0  # seconds between two looks at the running jobs


class LocalRunner:
    """Run all jobs of a plan that are not done.

    Args:
        study: the study's folder.
        plan: content of plan.json.
        devices: one job at a time on each; a name may stand several times for a CPU.
        command: makes the command of a job from study, name and device.
    """

    def __init__(
        self, study: Path, plan: Mapping[str, Any], devices: Sequence[str], *, command: Command = job_command
    ) -> None:
        self.study, self.plan, self.command = study, plan, command
        self.slots: queue.SimpleQueue[str] = queue.SimpleQueue()
        for device in devices:
            self.slots.put(device)
        self.count = len(devices)
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.ending = threading.Event()
        self.lock = threading.Lock()

    def run(self) -> dict[str, str]:
        """Run the jobs in the order of their needs.

        Returns:
            Job -> the reason why it failed or was not started; empty if all are done.

        Raises:
            InputError: a finished stage was made with other inputs (before anything starts), or another process runs
                this study.
            KeyboardInterrupt: a signal; the trainings were ended and can go on.
        """
        graph = needs(self.plan)
        with locked(self.study, f"study {self.study}"), self._signals():
            done = [name for name in graph if finished(self.study, self.plan, name)]
            failed: dict[str, str] = {}
            with ThreadPoolExecutor(self.count) as pool, _Display(self, len(graph), len(done)) as display:
                try:
                    self._schedule(graph, set(done), failed, pool, display)
                except BaseException:
                    self.end_all()
                    raise
        return failed

    def _schedule(
        self, graph: Mapping[str, Sequence[str]], done: set[str], failed: dict[str, str], pool: ThreadPoolExecutor,
        display: _Display,
    ) -> None:  # fmt: skip
        sorter = TopologicalSorter(graph)
        sorter.prepare()
        futures: dict[Future[str], str] = {}
        while sorter.is_active():
            for name in sorter.get_ready():
                lacking = next((need for need in graph[name] if need in failed), None)
                if name in done or lacking is not None:
                    if lacking is not None:
                        failed[name] = f"not started: it needs {lacking}"
                        display.finish(name, failed[name])
                    sorter.done(name)
                else:
                    futures[pool.submit(self._run_one, name)] = name
            finished_now, _ = wait(futures, timeout=REFRESH, return_when=FIRST_COMPLETED)
            display.refresh()
            if self.ending.is_set():
                raise KeyboardInterrupt
            for future in finished_now:
                name, reason = futures.pop(future), future.result()
                if reason:
                    failed[name] = reason
                display.finish(name, reason)
                sorter.done(name)

    def _run_one(self, name: str) -> str:
        """Run a job on a free device; the reason of its failure, empty where it succeeded."""
        device = self.slots.get()
        try:
            self._wait_for_orphan(name)
            with self.lock:
                if self.ending.is_set():
                    return "interrupted"
                process = subprocess.Popen(
                    list(self.command(self.study, name, device)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE, text=True, start_new_session=True,
                )  # fmt: skip
                self.running[name] = process
            _, errors = process.communicate()
            with self.lock:
                del self.running[name]
            lines = [line for line in errors.splitlines() if line.strip()]
            said = lines[-1].removeprefix("medmixers: error: ") if lines else f"exit status {process.returncode}"
            return said if process.returncode else ""
        finally:
            self.slots.put(device)

    def _wait_for_orphan(self, name: str) -> None:
        """Wait while the job runs on after its runner was killed: another one beside it would share its device."""
        folder = run_folder(self.study, name)
        if is_locked(folder):
            tell(f"{name} is running on {holder(folder)}; waiting for it")
        while is_locked(folder) and not self.ending.is_set():
            time.sleep(REFRESH)

    def end_all(self) -> None:
        """Tell all running jobs to end, and wait for them: each leaves what it needs to go on."""
        self.ending.set()
        with self.lock:
            processes = list(self.running.values())
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 60
        while self.running and time.monotonic() < deadline:
            time.sleep(0.05)
        with self.lock:
            for process in self.running.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM ends the study as ctrl-C does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def end(number: int, frame: Any) -> None:
            self.ending.set()
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGTERM, end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


class _Display:
    """A bar of finished jobs with a line per running one; outside a terminal, one line per finished job."""

    def __init__(self, runner: LocalRunner, total: int, done: int) -> None:
        from tqdm import tqdm

        self.runner, self.shown = runner, sys.stderr.isatty()
        options: dict[str, Any] = {"disable": not self.shown, "leave": False}
        self.bar = tqdm(total=total, initial=done, desc="jobs", unit="job", **options)
        self.lines = [
            tqdm(total=0, bar_format="{desc}", position=1 + place, **options)
            for place in range(runner.count if self.shown else 0)
        ]

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None:
        for line in (*self.lines, self.bar):
            line.close()

    def refresh(self) -> None:
        """Show what each running job is at."""
        names = list(self.runner.running) if self.shown else []
        for place, line in enumerate(self.lines):
            said = describe_job(self.runner.study, self.runner.plan, names[place]) if place < len(names) else None
            line.set_description_str("" if said is None else f"  {said}")

    def finish(self, name: str, reason: str) -> None:
        """Count a job."""
        tell(f"{name}: {f'failed: {reason}' if reason else 'done'}")
        self.bar.update()


def tell(text: str) -> None:
    """Print a line above the bars."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)
