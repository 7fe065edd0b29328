"""The accidents: apps are started, followed and killed, and so are workers and daemons."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

import _children
import _proc
from _arms import BenchError, progress
from _chaos_app import AppTask
from _chaos_journal import Journal, Tail
from _chaos_plan import Fault, PlannedJob
from _chaos_verdict import Told
from _chaos_watch import Watcher
from _lives import Lives, Process
from hermetic import Client
from hermetic_wire.messages import WorkerRow

__all__ = ["Chaos"]

STALL_S = 120.0
"""Longer without a line in any journal, and whatever is still awaited counts as lost."""
GONE_S = 20.0
"""Budget for what a killed daemon leaves behind to be gone."""
APP_END_S = 10.0
POLL_S = 0.02
LOOK_S = 0.2
"""Between two looks at what the daemon holds."""
TELL_S = 15.0
HITTABLE = ("running", "loading", "ready", "starting")
AT_WORK = 0.6
"""The share of workers that are killed while they run a job; the others whatever they do."""


class Chaos:
    """All apps against one endpoint, with faults between them. Used from the main thread."""

    def __init__(
        self, lives: Lives, plans: Sequence[Sequence[PlannedJob]], faults: Sequence[Fault]
    ) -> None:
        self._lives = lives
        self._plans = plans
        self._faults = list(faults)
        self._apps: dict[int, subprocess.Popen[bytes]] = {}
        self._journals = [lives.directory / f"app-{app}.journal" for app in range(len(plans))]
        self._watcher = Watcher(lives.endpoint)
        self._client = lives.client("conductor", patience=GONE_S)
        self._ended = 0
        self.injected: Counter[str] = Counter()
        """Faults by their kind."""
        self.restarts: list[float] = []
        """Seconds from each SIGKILL of a daemon to the first answer of the next."""
        self.orphans: set[Process] = set()
        self.samples: list[_proc.Census] = []
        """Of the present daemon."""

    def run(self, references: Mapping[str, str], seconds: float | None) -> float:
        """Until every app has all of its ends, or nothing goes on. Returns the seconds it took."""
        began = time.monotonic()
        until = None if seconds is None else time.time() + seconds
        for app, jobs in enumerate(self._plans):
            self._write_task(app, jobs, references, until)
            self._start(app)
        try:
            self._drive(began)
            return time.monotonic() - began
        finally:
            for process in self._apps.values():
                _children.end(process, APP_END_S)

    def told(self) -> list[Told]:
        """Of every job of the plan."""
        self._watcher.hear()
        found = []
        for path, jobs in zip(self._journals, self._plans, strict=True):
            journal = Journal(path)
            for job in jobs:
                ended = self._watcher.ended[job.id]
                found.append(Told(job, journal.history(job.id), ended))
            journal.close()
        return found

    def close(self) -> None:
        """Its own connections."""
        self._client.close()
        self._watcher.close()

    def _write_task(
        self,
        app: int,
        jobs: Sequence[PlannedJob],
        references: Mapping[str, str],
        until: float | None,
    ) -> None:
        task = AppTask(
            name=f"app-{app}",
            endpoint=str(self._lives.endpoint),
            journal=str(self._journals[app]),
            jobs=list(jobs),
            references=dict(references),
            until=until,
        )
        self._task_file(app).write_bytes(msgspec.json.encode(task))

    def _task_file(self, app: int) -> Path:
        return self._lives.directory / f"app-{app}.json"

    def _start(self, app: int) -> None:
        program = str(Path(__file__).with_name("_chaos_app.py"))
        words = [sys.executable, program, str(self._task_file(app))]
        log = self._lives.directory / f"app-{app}.log"
        self._apps[app] = _children.start(words, os.environ, log)

    def _drive(self, began: float) -> None:
        tails = [Tail(path) for path in self._journals]
        moved = looked = spoke = time.monotonic()
        while self._apps:
            entries = [entry for tail in tails for entry in tail.read()]
            self._ended += sum(entry.seen == "ended" for entry in entries)
            now = time.monotonic()
            moved = now if entries else moved
            if now - moved > STALL_S:
                progress(f"nothing has happened for {STALL_S:g} s\n{self._lives.log_tail()}")
                return
            if now - looked > LOOK_S:
                self.samples.append(_proc.census(self._lives.pid))
                looked = now
            if now - spoke > TELL_S:
                progress(f"{self._ended} jobs have ended, {now - began:.0f} s")
                spoke = now
            self._watcher.hear()
            self._inject_what_is_due()
            self._reap()
            time.sleep(POLL_S)

    def _reap(self) -> None:
        for app, process in list(self._apps.items()):
            if process.poll() is None:
                continue
            if process.returncode != 0:
                log = (self._lives.directory / f"app-{app}.log").read_text()
                raise BenchError(f"app {app} failed, exit code {process.returncode}:\n{log}")
            del self._apps[app]

    # Faults.

    def _inject_what_is_due(self) -> None:
        while self._faults and self._faults[0].after <= self._ended:
            if not self._inject(self._faults[0]):
                return  # there is nothing to hit at the moment
            del self._faults[0]

    def _inject(self, fault: Fault) -> bool:
        match fault.kind:
            case "worker":
                return self._kill_worker(fault.pick)
            case "daemon":
                self._kill_daemon()
            case "app":
                self._kill_app(fault.pick)
        return True

    def _kill_worker(self, pick: float) -> bool:
        """By what `ps` says of it, as anybody could."""
        row = _chosen(self._client, pick)
        if row is None or not self._is_ours(row.pid):
            return False
        with suppress(ProcessLookupError):  # it has ended by itself since then
            os.kill(row.pid, signal.SIGKILL)
        self.injected[f"worker_killed/{row.state}"] += 1
        return True

    def _is_ours(self, pid: int) -> bool:
        """Whether the number is one of our daemon's processes, and not another's by now."""
        return pid in {process for process, _ in self._lives.processes()}

    def _kill_daemon(self) -> None:
        self._watcher.hear()
        began = time.monotonic()
        had = self._lives.kill()
        self._lives.restart()
        self._lives.await_answer()
        self.restarts.append(time.monotonic() - began)
        self._watcher.begin_again()
        self.samples.clear()
        self.injected["daemon_killed"] += 1
        self.orphans |= _remaining(had, GONE_S)

    def _kill_app(self, pick: float) -> None:
        """And another one in its place; none where all have ended."""
        if not self._apps:
            return
        app = sorted(self._apps)[int(pick * len(self._apps))]
        process = self._apps[app]
        if process.poll() is None:
            process.kill()
            process.wait()
            self._start(app)
            self.injected["app_killed"] += 1


def _chosen(client: Client, pick: float) -> WorkerRow | None:
    """One of the workers, where there is one that can be hit now."""
    states = HITTABLE[:1] if pick < AT_WORK else HITTABLE
    rows = [row for row in client.workers() if row.state in states]
    return rows[int(pick * len(rows))] if rows else None


def _remaining(had: set[Process], seconds: float) -> set[Process]:
    """Those that still live when the time is over; the wait is as short as can be."""
    deadline = time.monotonic() + seconds
    while True:
        left = {one for one in had if _lives(one)}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)


def _lives(one: Process) -> bool:
    pid, created = one
    try:
        process = psutil.Process(pid)
        return process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
