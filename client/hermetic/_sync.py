"""The blocking client: an AsyncClient on an event loop in a thread of its own.

The thread is why a Client may be shared by threads, works where an event loop runs already (as in
Jupyter), and follows its jobs while the app computes. There is no second copy of the logic.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Literal

from hermetic_wire.errors import HermeticError
from hermetic_wire.generation import JobState, Parameter, Priority, Task
from hermetic_wire.messages import (
    JobFailed,
    JobRow,
    JobSucceeded,
    ModelRow,
    OnDisconnect,
    Status,
    WorkerRow,
)

from ._async import AsyncClient
from ._async_job import AsyncJob
from ._duration import Duration
from ._loop_thread import LoopThread
from ._result import Result
from ._task import Seed, checked_job_id
from ._updates import JobUpdate, WatchUpdate

__all__ = ["Client", "Job"]


class Client:
    """Talks to the daemon. Connects when it is first used; may be shared by threads.

    `endpoint` is a socket's path, or what HERMETIC_ENDPOINT or the defaults say; `app` is the name
    shown in `hermetic jobs`, by default the program's. `connect_timeout` bounds the first
    handshake; after a daemon went away, whatever is outstanding waits `reconnect_timeout` for it to
    come back. Both in seconds. Every method may raise DaemonUnreachable or what the daemon refused.
    A fork of the process needs a client of its own.
    """

    def __init__(
        self,
        endpoint: str | os.PathLike[str] | None = None,
        *,
        app: str | None = None,
        connect_timeout: float = 5.0,
        reconnect_timeout: float = 60.0,
    ) -> None:
        self._async = AsyncClient(
            endpoint,
            app=app,
            connect_timeout=connect_timeout,
            reconnect_timeout=reconnect_timeout,
        )
        self._loop = LoopThread(self, self._async.close)

    @property
    def endpoint(self) -> Path:
        """The daemon's socket."""
        return self._async.endpoint

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Ends the connection; whoever waits here gets DaemonUnreachable.

        Accepted jobs go on, but for those with `on_disconnect="cancel"` that nobody else follows.
        """
        self._loop.close()

    def generate(
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
        timeout: float | None = None,
        on_update: Callable[[JobUpdate], None] | None = None,
        **extra: Parameter,
    ) -> Result:
        """Submits a job and waits for its result; `on_update` is called with each update.

        Arguments are those of `submit`. Raises ResultTimeout after `timeout` seconds (the job goes
        on), otherwise the error by which the job ended. If the wait is broken off, by Ctrl-C or by
        an exception of `on_update`, the job is cancelled: nobody would hold it any more. A daemon
        that is away is told when it is back, if that is within `reconnect_timeout` and before the
        client is closed.
        """
        job_id = checked_job_id(job_id)
        submit = partial(
            self._async.submit,
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

        async def result() -> Result:
            job = await submit()
            return await job.result(timeout)

        try:
            if on_update is None:  # to the loop's thread and back only once
                return self._loop.run(result)
            return Job(self, self._loop.run(submit))._watch(timeout, on_update)
        except HermeticError:
            raise
        except BaseException:
            self._give_up(job_id)
            raise

    def submit(
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
    ) -> Job:
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

        async def submit() -> AsyncJob:
            return await self._async.submit(
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

        return Job(self, self._loop.run(submit))

    def load(
        self,
        model: str,
        *,
        priority: Priority = "normal",
        expires_in: Duration | None = None,
        on_disconnect: OnDisconnect = "keep",
        keep_alive: Duration | None = None,
    ) -> Job:
        """A job that makes the model ready and does nothing with it. Arguments as of `submit`."""

        async def load() -> AsyncJob:
            return await self._async.load(
                model,
                priority=priority,
                expires_in=expires_in,
                on_disconnect=on_disconnect,
                keep_alive=keep_alive,
            )

        return Job(self, self._loop.run(load))

    def job(self, job_id: str, *, preview_seconds: Duration | None = None) -> Job:
        """Takes hold of a job again, from any process, also after a restart of the daemon.

        Previews come at most one in `preview_seconds`. Raises UnknownJob or ResultDropped.
        """

        async def follow() -> AsyncJob:
            return await self._async.job(job_id, preview_seconds=preview_seconds)

        return Job(self, self._loop.run(follow))

    def events(self, *, app: str | None = None) -> Iterator[WatchUpdate]:
        """News of all jobs of this user, or of those of apps named `app`, until it is closed.

        Begins when the first is taken: with a JobSubmitted for every job that has not ended. After
        a restart of the daemon JobSubmitted comes again for those; of an end that fell into the gap
        a JobEnded tells, or a JobForgotten where the daemon does not know the job any more. Of one
        job's waiting updates of one kind only the newest is kept. Raises DaemonUnreachable once the
        daemon stays away or the client is closed.
        """
        watch = self._async._watch(app)
        try:
            while True:
                yield self._loop.run(watch.next)
        finally:
            # Not waited for: whoever collects a generator that was left may be the loop itself.
            self._loop.start(self._async._close_watch, watch)

    def cancel(self, job_id: str) -> str:
        """Ends a job; returns what the daemon says. Raises UnknownJob or NotPermitted, and
        StoreUnavailable where it is being ended and a daemon that dies now would forget that."""
        return self._loop.run(self._async.cancel, job_id)

    def jobs(self) -> list[JobRow]:
        """Waiting and running jobs in the order they will run, then ended ones, youngest first."""
        return self._loop.run(self._async.jobs)

    def models(self) -> list[ModelRow]:
        """The catalog, by name."""
        return self._loop.run(self._async.models)

    def model(self, name: str) -> ModelRow:
        """One model of the catalog. Raises UnknownModel."""
        return self._loop.run(self._async.model, name)

    def workers(self) -> list[WorkerRow]:
        """The living workers."""
        return self._loop.run(self._async.workers)

    def status(self) -> Status:
        """The daemon itself."""
        return self._loop.run(self._async.status)

    def unload(self, model: str) -> str:
        """Ends the model's worker once its job is done; returns when the process is gone."""
        return self._loop.run(self._async.unload, model)

    def pause(self) -> str:
        """Has the daemon begin no job until `resume`; what runs goes on. Raises NotPermitted."""
        return self._loop.run(self._async.pause)

    def resume(self) -> str:
        """Has the daemon begin jobs again. Raises NotPermitted."""
        return self._loop.run(self._async.resume)

    def stop(self, mode: Literal["drain", "stop", "kill"] = "stop") -> str:
        """Ends the daemon: `drain` finishes all jobs, `stop` the running one if it is soon done,
        `kill` none. The next daemon goes on with the others."""
        return self._loop.run(self._async.stop, mode)

    def _give_up(self, job_id: str) -> None:
        """Cancels a job that nobody holds any more, and waits for no answer."""
        self._loop.run(self._async._give_up, job_id)

    def _submit(self, model: str, task: Task) -> Job:
        """A job of a task that is complete already; RemotePipeline's way in."""
        return Job(self, self._loop.run(self._async._submit, checked_job_id(None), model, task))


class Job:
    """A job that the daemon has accepted. Iterate it for its updates, wait with `result()`."""

    def __init__(self, client: Client, job: AsyncJob) -> None:
        """Made by Client only."""
        self._client = client  # as long as a job is held, so is its connection
        self._job = job

    @property
    def id(self) -> str:
        """The job's id, good in any process."""
        return self._job.id

    @property
    def state(self) -> JobState:
        """What the daemon said last."""
        return self._job.state

    def __iter__(self) -> Iterator[JobUpdate]:
        """Its updates, the last one JobSucceeded or JobFailed; a failed job raises nothing here.

        Where previews were asked for they come between the others, as Preview objects. Of waiting
        updates of one kind only the newest is kept, so a slow loop skips steps. Two loops at once
        share the updates. Raises DaemonUnreachable or UnknownJob for a job that is lost.
        """
        return self._updates(None)

    def result(self, timeout: float | None = None) -> Result:
        """Waits for the end, over restarts of the daemon too. Raises the error by which the job
        ended, or ResultTimeout after `timeout` seconds; then it goes on and may be asked again."""
        return self._client._loop.run(self._job.result, timeout)

    def cancel(self) -> str:
        """Ends the job; returns what the daemon says. The end itself is an update."""
        return self._client._loop.run(self._job.cancel)

    def _watch(self, timeout: float | None, on_update: Callable[[JobUpdate], None]) -> Result:
        """Calls `on_update` in this thread, which is the app's."""
        for update in self._updates(timeout):
            on_update(update)
        return self.result()

    def _updates(self, timeout: float | None) -> Iterator[JobUpdate]:
        deadline = None if timeout is None else monotonic() + timeout
        ended = False
        while not ended:
            patience = None if deadline is None else deadline - monotonic()
            update = self._client._loop.run(self._job._next, patience)
            ended = isinstance(update, (JobSucceeded, JobFailed))
            yield update
