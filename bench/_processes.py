"""The arms without a daemon: apps that change models within a process, or start another one."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from _arms import BenchError, Setting, Visit

__all__ = ["InProcess", "NewInterpreter"]

PROGRAM = Path(__file__).parent / "_participant.py"


class _Participant:
    """A running `_participant.py`. It ends by itself when this process does."""

    def __init__(self, kind: str, setting: Setting, *models: str) -> None:
        self._name = f"the {kind} participant"
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), kind, setting.to_json(), *models],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, model: str | None) -> dict[str, Any]:
        """Have it visit the model; None leaves what it holds."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"visit": model}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # what it died of is told where its answer is missed
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """What it says next. Raises BenchError where it ends instead."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise BenchError(f"{self._name} ended with exit code {code}; its words are above")
        found: dict[str, Any] = json.loads(line)
        return found

    def kill(self) -> None:
        """SIGKILL, and wait until it has been reaped."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class InProcess:
    """One process for good; the time is taken inside it, so that no pipe is in it."""

    def __init__(self, kind: str, setting: Setting) -> None:
        self._participant = _Participant(kind, setting)

    def await_start(self) -> None:
        """Until it has imported everything."""
        self._participant.answer()

    def visit(self, model: str) -> Visit:
        """As its kind does it."""
        answer = self._participant.ask(model)
        return Visit(answer["seconds"], answer["stages"])

    def settle(self) -> None:
        """Nothing goes on behind an answer."""

    def leave(self) -> None:
        """Hold no model."""
        self._participant.ask(None)

    def close(self) -> None:
        """End it."""
        self._participant.kill()


class NewInterpreter:
    """The former process is killed, another is started, and imports all it needs."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._participant: _Participant | None = None

    def await_start(self) -> None:
        """There is nothing to wait for."""

    def visit(self, model: str) -> Visit:
        """From the former's death to the new one's word that it is ready."""
        began = time.monotonic()
        self.leave()
        killed = time.monotonic()
        self._participant = _Participant("fresh", self._setting, model)
        answer = self._participant.answer()
        seconds = time.monotonic() - began
        stages = {"reap": killed - began, "exec": answer["born"] - killed, **answer["stages"]}
        return Visit(seconds, stages)

    def settle(self) -> None:
        """The former was reaped before the present began."""

    def leave(self) -> None:
        """Kill it, where there is one."""
        if self._participant is not None:
            self._participant.kill()
            self._participant = None

    def close(self) -> None:
        """The same."""
        self.leave()
