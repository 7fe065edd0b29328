"""The client for programs with an event loop of their own. Says what to ask; Connection asks it."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

from msgspec.structs import asdict

from hermetic_wire.errors import HermeticError, UnknownModel
from hermetic_wire.generation import Load, Parameter, Priority, Task
from hermetic_wire.messages import (
    MAX_APP_NAME_BYTES,
    Accepted,
    Cancel,
    Done,
    Follow,
    GetStatus,
    JobRow,
    Jobs,
    ListJobs,
    ListModels,
    ListWorkers,
    ModelRow,
    Models,
    OnDisconnect,
    Pause,
    Resume,
    Status,
    Stop,
    Submit,
    Unload,
    WorkerRow,
    Workers,
)
from hermetic_wire.paths import endpoint_path

from ._async_job import AsyncJob
from ._connection import Connection
from ._core import Core
from ._duration import Duration
from ._events import Events
from ._mailbox import Mailbox
from ._result import Result
from ._task import Seed, checked_job_id, text_to_image
from ._terms import Terms, preview_pace, terms
from ._updates import JobUpdate, WatchUpdate
from ._version import __version__

__all__ = ["AsyncClient"]


class AsyncClient:
    """Talks to the daemon from one event loop. Connects when it is first used.

    `endpoint` is a socket's path, or what HERMETIC_ENDPOINT or the defaults say; `app` is the name
    shown in `hermetic jobs`, by default the program's. `connect_timeout` bounds the first
    handshake; after a daemon went away, whatever is outstanding waits `reconnect_timeout` for it to
    come back. Both in seconds. Every method may raise DaemonUnreachable or what the daemon refused.
    """

    def __init__(
        self,
        endpoint: str | os.PathLike[str] | None = None,
        *,
        app: str | None = None,
        connect_timeout: float = 5.0,
        reconnect_timeout: float = 60.0,
    ) -> None:
        self.endpoint: Path = endpoint_path(endpoint)
        self._pid = os.getpid()
        self._app = _program() if app is None else app
        self._connect_timeout = connect_timeout
        self._reconnect_timeout = reconnect_timeout
        self._core, self._connection = self._converse()
        self._watches: set[Events] = set()

    async def __aenter__(self) -> AsyncClient:
        """The client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        await self.close()

    async def close(self) -> None:
        """Ends the connection; whoever waits here gets DaemonUnreachable.

        Accepted jobs go on, but for those with `on_disconnect="cancel"` that nobody else follows.
        """
        if self._pid == os.getpid():
            for watch in tuple(self._watches):
                await self._close_watch(watch)
            await self._connection.close()

    async def generate(
        self,
        prompt: str | Sequence[str],
        *,
        model: str,
        negative_prompt: str | Sequence[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: Seed = None,
        n: int = 1,
        job_id: str | None = None,
        priority: Priority = "normal",
        expires_in: Duration | None = None,
        on_disconnect: OnDisconnect = "keep",
        keep_alive: Duration | None = None,
        preview_seconds: Duration | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a budget that leaves the job going on
        on_update: Callable[[JobUpdate], None] | None = None,
        **extra: Parameter,
    ) -> Result:
        """Submits a job and waits for its result; `on_update` is called with each update.

        Arguments are those of `submit`. Raises ResultTimeout after `timeout` seconds (the job goes
        on), otherwise the error by which the job ended. If the wait is broken off, by cancellation
        or by an exception of `on_update`, the job is cancelled: nobody would hold it any more. A
        daemon that is away is told when it is back, if that is within `reconnect_timeout` and
        before the client is closed.
        """
        job_id = checked_job_id(job_id)
        try:
            job = await self.submit(
                prompt,
                model=model,
                negative_prompt=negative_prompt,
                width=width,
                height=height,
                steps=steps,
                guidance=guidance,
                seed=seed,
                n=n,
                job_id=job_id,
                priority=priority,
                expires_in=expires_in,
                on_disconnect=on_disconnect,
                keep_alive=keep_alive,
                preview_seconds=preview_seconds,
                **extra,
            )
            return await job._watch(timeout, on_update)
        except HermeticError:
            raise
        except BaseException:
            await self._give_up(job_id)
            raise

    async def submit(
        self,
        prompt: str | Sequence[str],
        *,
        model: str,
        negative_prompt: str | Sequence[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        seed: Seed = None,
        n: int = 1,
        job_id: str | None = None,
        priority: Priority = "normal",
        expires_in: Duration | None = None,
        on_disconnect: OnDisconnect = "keep",
        keep_alive: Duration | None = None,
        preview_seconds: Duration | None = None,
        **extra: Parameter,
    ) -> AsyncJob:
        """A new job, accepted by the daemon: `n` images of each prompt, sizes in pixels.

        Whatever is None is the model's default. `seed` is the first image's, further images have
        the following numbers; a list has one per image. The same `job_id` again is the same job.
        `extra` are further parameters of the model's pipeline.

        Lengths of time are seconds or a text such as "5m". A job that has not begun after
        `expires_in` fails with JobExpired. `on_disconnect="cancel"` ends it with this client or its
        process. The idle model stays loaded for `keep_alive`; -1 or infinity is for ever. Previews
        come at most one in `preview_seconds`.

        Raises InvalidParameter; QueueFull, ShuttingDown or StoreUnavailable, with `retry_after`,
        where the daemon cannot take it now.
        """
        task = text_to_image(
            prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance=guidance,
            seed=seed,
            n=n,
            extra=extra,
        )
        agreed = terms(
            priority=priority,
            expires_in=expires_in,
            on_disconnect=on_disconnect,
            keep_alive=keep_alive,
            preview_seconds=preview_seconds,
        )
        return await self._submit(checked_job_id(job_id), model, task, agreed)

    async def load(
        self,
        model: str,
        *,
        priority: Priority = "normal",
        expires_in: Duration | None = None,
        on_disconnect: OnDisconnect = "keep",
        keep_alive: Duration | None = None,
    ) -> AsyncJob:
        """A job that makes the model ready and does nothing with it. Arguments as of `submit`."""
        agreed = terms(
            priority=priority,
            expires_in=expires_in,
            on_disconnect=on_disconnect,
            keep_alive=keep_alive,
        )
        return await self._submit(checked_job_id(None), model, Load(), agreed)

    async def job(self, job_id: str, *, preview_seconds: Duration | None = None) -> AsyncJob:
        """Takes hold of a job again, from any process, also after a restart of the daemon.

        Previews come at most one in `preview_seconds`. Raises UnknownJob or ResultDropped.
        """
        pace = preview_pace(preview_seconds)
        box = self._core.open_job(checked_job_id(job_id), pace)
        request = Follow(seq=self._core.number(), job_id=job_id, preview_seconds=pace)
        return await self._follow(box, request)

    async def events(self, *, app: str | None = None) -> AsyncIterator[WatchUpdate]:
        """News of all jobs of this user, or of those of apps named `app`, until it is closed.

        Begins when the first is taken: with a JobSubmitted for every job that has not ended. After
        a restart of the daemon JobSubmitted comes again for those; of an end that fell into the gap
        a JobEnded tells, or a JobForgotten where the daemon does not know the job any more. Of one
        job's waiting updates of one kind only the newest is kept. Raises DaemonUnreachable once the
        daemon stays away or the client is closed.
        """
        watch = self._watch(app)
        try:
            while True:
                yield await watch.next()
        finally:
            await self._close_watch(watch)

    async def cancel(self, job_id: str) -> str:
        """Ends a job; returns what the daemon says. Raises UnknownJob or NotPermitted, and
        StoreUnavailable where it is being ended and a daemon that dies now would forget that."""
        return await self._do(Cancel(seq=self._core.number(), job_id=job_id))

    async def jobs(self) -> list[JobRow]:
        """Waiting and running jobs in the order they will run, then ended ones, youngest first."""
        self._check_process()
        return list((await self._connection.ask(ListJobs(seq=self._core.number()), Jobs)).jobs)

    async def models(self) -> list[ModelRow]:
        """The catalog, by name."""
        return await self._models(None)

    async def model(self, name: str) -> ModelRow:
        """One model of the catalog. Raises UnknownModel."""
        for row in await self._models(name):
            if row.name == name:
                return row
        raise UnknownModel(f"There is no model {name!r}; `hermetic models` lists what there is.")

    async def workers(self) -> list[WorkerRow]:
        """The living workers."""
        self._check_process()
        request = ListWorkers(seq=self._core.number())
        return list((await self._connection.ask(request, Workers)).workers)

    async def status(self) -> Status:
        """The daemon itself."""
        self._check_process()
        return await self._connection.ask(GetStatus(seq=self._core.number()), Status)

    async def unload(self, model: str) -> str:
        """Ends the model's worker once its job is done; returns when the process is gone."""
        return await self._do(Unload(seq=self._core.number(), model=model))

    async def pause(self) -> str:
        """Has the daemon begin no job until `resume`; what runs goes on. Raises NotPermitted."""
        return await self._do(Pause(seq=self._core.number()))

    async def resume(self) -> str:
        """Has the daemon begin jobs again. Raises NotPermitted."""
        return await self._do(Resume(seq=self._core.number()))

    async def stop(self, mode: Literal["drain", "stop", "kill"] = "stop") -> str:
        """Ends the daemon: `drain` finishes all jobs, `stop` the running one if it is soon done,
        `kill` none. The next daemon goes on with the others."""
        return await self._do(Stop(seq=self._core.number(), mode=mode))

    async def _do(self, request: Cancel | Unload | Pause | Resume | Stop) -> str:
        self._check_process()
        return (await self._connection.ask(request, Done)).message

    async def _models(self, name: str | None) -> list[ModelRow]:
        self._check_process()
        request = ListModels(seq=self._core.number(), model=name)
        return list((await self._connection.ask(request, Models)).models)

    async def _submit(
        self, job_id: str, model: str, task: Task, agreed: Terms | None = None
    ) -> AsyncJob:
        agreed = agreed or Terms()
        request = Submit(
            seq=self._core.number(), job_id=job_id, model=model, task=task, **asdict(agreed)
        )
        return await self._follow(self._core.open_job(job_id, agreed.preview_seconds), request)

    async def _follow(self, box: Mailbox, request: Submit | Follow) -> AsyncJob:
        self._check_process()
        try:
            await self._connection.ask(request, Accepted)
        finally:
            self._core.close_unaccepted(box)
        return AsyncJob(self._connection, box, self.cancel)

    def _watch(self, app: str | None) -> Events:
        self._check_process()
        core, connection = self._converse()
        watch = Events(connection, core, app)
        self._watches.add(watch)
        return watch

    async def _close_watch(self, watch: Events) -> None:
        self._watches.discard(watch)
        await watch.close()

    def _converse(self) -> tuple[Core, Connection]:
        core = Core(app=self._app, version=__version__)
        connection = Connection(
            self.endpoint,
            core,
            connect_timeout=self._connect_timeout,
            reconnect_timeout=self._reconnect_timeout,
        )
        return core, connection

    async def _give_up(self, job_id: str) -> None:
        if self._pid == os.getpid():
            await self._connection.tell(Cancel(seq=self._core.number(), job_id=job_id))

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError(
                f"This client was made by process {self._pid} and this is its fork {os.getpid()}. "
                "A connection cannot be shared with a fork: make a new client here."
            )


def _program() -> str:
    name = Path(sys.argv[0]).name.encode(errors="replace")[:MAX_APP_NAME_BYTES]
    return name.decode(errors="ignore") or "python"
