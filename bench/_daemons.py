"""The arms with a daemon of their own each, and what makes sure that they are what they say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from _arms import BenchError, Setting, Visit
from hermetic import Client
from hermetic.cli.own_daemon import OwnDaemon, own_daemon
from hermetic_wire.messages import WorkerRow

__all__ = [
    "WAYS",
    "DaemonArm",
    "Way",
    "await_template",
    "configured",
    "daemon_of",
    "require_as_said",
    "standby_of",
    "until",
]

TEMPLATE_S = 300.0
"""Budget for a template: its imports, the skeletons of every model, its checks."""
SETTLE_S = 120.0
"""Budget for a standby to be there again, and for a former worker to be gone."""
LOAD_S = 600.0
_POLL_S = 0.01


@dataclass(frozen=True)
class Way:
    """How a daemon starts its workers."""

    start_method: str
    standby: bool = False

    @property
    def lines(self) -> str:
        """Of `[worker]`."""
        return (
            f'start_method = "{self.start_method}"\nstandby = "{"on" if self.standby else "off"}"\n'
        )


WAYS = {
    "hermetic_exec": Way("exec"),
    "fork": Way("fork"),
    "standby": Way("fork", standby=True),
}
"""By the arm's name."""


def configured(way: Way, setting: Setting, more: str = "") -> str:
    """The configuration file of a daemon that serves these models in this way, without trials."""
    models = "".join(
        f'[models.{name}]\npath = "{path}"\ndtype = "{setting.dtype}"\n'
        for name, path in setting.folders.items()
    )
    read_ahead = str(setting.read_ahead).lower()
    return f'[worker]\n{way.lines}smoke = "never"\nread_ahead = {read_ahead}\n{more}{models}'


@contextmanager
def daemon_of(config: str, device: str, directory: Path) -> Iterator[OwnDaemon]:
    """A daemon with this configuration; `directory` is for the file."""
    file = directory / "hermetic.toml"
    file.write_text(config)
    with own_daemon(device=device, config=file) as daemon:
        yield daemon


class DaemonArm:
    """One daemon. A visit is timed at the client, with the requests and replies in it."""

    def __init__(self, name: str, setting: Setting, directory: Path) -> None:
        directory.mkdir()
        self._name, self._way, self._setting = name, WAYS[name], setting
        self._stack = ExitStack()
        config = configured(self._way, setting)
        self.daemon = self._stack.enter_context(daemon_of(config, setting.device, directory))
        self._client = self.daemon.client
        self._held: str | None = None

    def await_start(self) -> None:
        """Until workers are started in this way and no other."""
        if self._way.start_method == "fork":
            await_template(self._client, self._setting.models)
        self.settle()

    def visit(self, model: str) -> Visit:
        """`load`, and then a look at the worker that came of it."""
        waiting = standby_of(self._client)
        began = time.perf_counter()
        result = self._client.load(model).result(LOAD_S)
        seconds = time.perf_counter() - began
        self._held = model
        require_as_said(self._name, model, self._client.workers(), waiting)
        return Visit(seconds, _of_switch(result.timings, self._way))

    def settle(self) -> None:
        """Until the former worker is gone and, where there should be one, a standby waits."""

        def settled() -> bool:
            rows = self._client.workers()
            standbys = sum(row.state == "standby" for row in rows)
            if self._way.standby:
                _require_template(self._client)
            others = {row.state for row in rows} - {"ready", "standby"}
            return not others and standbys == self._way.standby

        until(settled, SETTLE_S, f"{self._name}: its workers come to rest")

    def leave(self) -> None:
        """Hold no model."""
        if self._held is not None:
            self._client.unload(self._held)
            self._held = None

    def close(self) -> None:
        """End the daemon."""
        self._stack.close()


def require_as_said(
    arm: str, model: str, rows: Sequence[WorkerRow], waiting: WorkerRow | None
) -> None:
    """Raises BenchError where the model came to its worker in another way than the arm's name
    says; `waiting` is the standby that was there before."""
    way = WAYS[arm]
    row = next((row for row in rows if row.model == model), None)
    if row is None:
        raise BenchError(f"{arm}: {model} was loaded, but no worker has it")
    if row.start_method != way.start_method:
        raise BenchError(f"{arm}: the worker of {model} came by {row.start_method}")
    others = {part: how for part, how in row.loaded_by.items() if how != "skeleton"}
    if way.start_method == "fork" and (others or not row.loaded_by):
        raise BenchError(f"{arm}: {model} was not loaded by its skeleton: {others}")
    if way.standby and (waiting is None or waiting.pid != row.pid):
        raise BenchError(f"{arm}: {model} was given to another than the standby")


def await_template(client: Client, models: list[str]) -> None:
    """Until it serves. Raises BenchError where it is refused, or has no skeleton of a model."""
    until(lambda: _require_template(client), TEMPLATE_S, "the template serves")
    template = client.status().template
    skeletons = template.skeletons if template else {}
    missing = {model: skeletons.get(model, "unknown to it") for model in models}
    missing = {model: why for model, why in missing.items() if why != "ready"}
    if missing:
        raise BenchError(f"the template has no skeleton: {missing}")


def standby_of(client: Client) -> WorkerRow | None:
    """The standby that waits, if one does."""
    return next((row for row in client.workers() if row.state == "standby"), None)


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll. Raises BenchError with `what` where it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {seconds:g} s: {what}")
        time.sleep(_POLL_S)


def _require_template(client: Client) -> bool:
    """Whether it serves. Raises BenchError where it never will."""
    template = client.status().template
    if template is None or template.state in ("refused", "off"):
        reason = template.reason if template else "this daemon has none"
        raise BenchError(f"the template is not used, so nothing can be forked: {reason}")
    return template.state == "serving"


def _of_switch(timings: Mapping[str, float], way: Way) -> dict[str, float]:
    """What belongs to a switch: a standby was forked, and got ready, before it was asked for."""
    before = {"queued", "total", *(("fork", "hello", "prepare") if way.standby else ())}
    return {stage: seconds for stage, seconds in timings.items() if stage not in before}
