"""What apps ask, one method per request: checks that they may, answers, and turns it into events.

An error of any kind costs the one who asked an answer in words and changes nothing; but a cancel is
carried out also where it cannot be written down.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import assert_never

from hermetic_wire import errors, messages
from hermetic_wire.generation import Task

from . import events, faults
from .admission import (
    RETRY_SECONDS,
    Room,
    check_app_name,
    check_job_id,
    check_preview_seconds,
    check_terms,
    complete,
)
from .apps import Apps, Connection
from .catalog import Catalog
from .config import DaemonSection
from .dispatcher import Dispatcher
from .door import Door, Peer
from .followers import Followers
from .jobs import App, Job
from .ledger import Ledger
from .overview import Overview

__all__ = ["Requests"]

VERSION = metadata.version("hermetic")


@dataclass(frozen=True)
class _Asked:
    """A request whose answer is not due yet."""

    peer: Peer
    seq: int


@dataclass(frozen=True)
class _Follower(_Asked):
    """A request for news of a job."""

    connection: Connection


@dataclass(frozen=True)
class _Coming:
    """A job that is being written down, and who waits for that."""

    job: Job
    followers: list[_Follower]


class Requests:
    """Answers apps. `happen` takes what follows from a request."""

    def __init__(
        self,
        config: DaemonSection,
        catalog: Callable[[], Catalog],
        dispatcher: Dispatcher,
        ledger: Ledger,
        overview: Overview,
        door: Door,
        followers: Followers,
        apps: Apps,
        happen: Callable[[events.Event], None],
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._overview = overview
        self._door = door
        self._followers = followers
        self._apps = apps
        self._happen = happen
        self._room = Room(config, dispatcher)
        self._being_accepted: dict[str, _Coming] = {}
        """By job id; some of them run already."""
        self._tickets: dict[int, tuple[_Asked, str]] = {}
        """Who waits for an unload, and of which model."""
        self._ticket_numbers = itertools.count(1)

    def answer(self, peer: Peer, request: messages.FromApp) -> None:
        """Serve one request."""
        try:
            self._serve(peer, request)
        except errors.HermeticError as error:
            self._door.reject(peer.identity, request.seq, error)

    def _serve(self, peer: Peer, request: messages.FromApp) -> None:
        seq, identity, send = request.seq, peer.identity, self._door.send
        match request:
            case messages.Hello():
                check_app_name(request.app)
                self._apps.greet(peer, request.app)
                send(identity, messages.Welcome(seq=seq, version=VERSION, pid=os.getpid()))
            case messages.Submit():
                self._submit(peer, request)
            case messages.Follow():
                self._follow(peer, request)
            case messages.Watch():
                self._watch(peer, request)
            case messages.Bye():
                self._done(_Asked(peer, seq), "Goodbye.")
                self._apps.lose(identity)
            case messages.Cancel():
                self._cancel(peer, request)
            case messages.ListJobs():
                send(identity, self._overview.jobs(seq, request.job_ids))
            case messages.ListModels():
                rows = self._catalog().describe(request.model)
                send(identity, messages.Models(seq=seq, models=rows))
            case messages.ListWorkers():
                send(identity, messages.Workers(seq=seq, workers=self._overview.workers()))
            case messages.GetStatus():
                send(identity, self._overview.status(seq))
            case messages.Unload():
                self._unload(peer, request)
            case messages.Pause():
                self._pause(peer, request, paused=True)
            case messages.Resume():
                self._pause(peer, request, paused=False)
            case messages.Stop():
                self._stop(peer, request)
            case _:
                assert_never(request)

    # Jobs.

    def _submit(self, peer: Peer, request: messages.Submit) -> None:
        faults.reach("submit.decoded")
        check_job_id(request.job_id)
        check_terms(request)
        asked = _Follower(peer, request.seq, self._apps.behind(peer))
        if self._joins(asked, request.job_id):
            return
        if request.job_id in self._ledger.jobs:
            known = self._find(request.job_id)
            self._take_hold(asked, known)
            self._tell_state(asked, known)
            return
        job = self._admitted(asked.connection.app, request)
        self._being_accepted[job.id] = _Coming(job, [asked])
        self._room.take(job.app.share)
        faults.reach("submit.admitted")
        # It may run while it is written down: that saves it the time of a commit.
        self._ledger.accept(
            job,
            then=lambda error: self._written(job, error),
            meanwhile=lambda: self._hand_over(job),
        )

    def _admitted(self, app: App, request: messages.Submit) -> Job:
        """The job, if it can be right and there is room for it."""
        self._require_serving()
        self._room.require(app.share)
        now = time.time()
        return Job(
            id=request.job_id,
            app=app,
            model=request.model,
            task=self._complete(request.task, request.model),
            submitted_at=now,
            priority=request.priority,
            expires_at=None if request.expires_in is None else now + request.expires_in,
            on_disconnect=request.on_disconnect,
            keep_alive=request.keep_alive,
            preview_seconds=request.preview_seconds,
        )

    def _complete(self, task: Task, model: str) -> Task:
        return complete(task, self._catalog().find(model))

    def _require_serving(self) -> None:
        if self._dispatcher.ending is not None:
            raise errors.ShuttingDown(
                "The daemon is ending and takes no new jobs. Submit again once it is back.",
                retry_after=RETRY_SECONDS,
            )

    def _hand_over(self, job: Job) -> None:
        self._room.free(job.app.share)
        if self._ledger.adopt(job):
            self._happen(job.arrival())

    def _written(self, job: Job, error: errors.HermeticError | None) -> None:
        """The job is the daemon's own, or could not be written down."""
        handed_over = job.id in self._ledger.jobs
        waiting = self._being_accepted.pop(job.id).followers
        if error is not None:
            for asked in waiting:
                self._door.reject(asked.peer.identity, asked.seq, error)
            if handed_over:
                self._happen(events.CancelAsked(job.id))
            else:
                self._room.free(job.app.share)
            return
        faults.reach("accepted.before_send")
        for asked in waiting:
            try:
                self._take_hold(asked, job)
            except errors.HermeticError as refusal:  # another user, who came upon the same id
                self._door.reject(asked.peer.identity, asked.seq, refusal)
        faults.reach("accepted.after_send")
        if handed_over:
            self._followers.publish_state(job)
        else:
            self._hand_over(job)
        if job.on_disconnect == "cancel" and not self._followers.has(job.id):
            self._happen(events.CancelAsked(job.id))

    def _follow(self, peer: Peer, request: messages.Follow) -> None:
        check_preview_seconds(request.preview_seconds)
        asked = _Follower(peer, request.seq, self._apps.behind(peer))
        if self._joins(asked, request.job_id):
            return
        job = self._find(request.job_id)
        self._take_hold(asked, job)
        wanted = request.preview_seconds
        if wanted is not None:
            job.preview_seconds = min(wanted, job.preview_seconds or wanted)
        self._tell_state(asked, job)

    def _joins(self, asked: _Follower, job_id: str) -> bool:
        """Whether the job is just being written down; then the asker hears with the others."""
        coming = self._being_accepted.get(job_id)
        if coming is None:
            return False
        coming.followers.append(asked)
        return True

    def _find(self, job_id: str) -> Job:
        job = self._ledger.jobs.find(job_id)
        if job.refused:
            raise _never_was(job)
        return job

    def _tell_state(self, asked: _Asked, job: Job) -> None:
        """To one who comes later; who submits a job hears of it as things happen."""
        if not job.ended:
            self._followers.tell_state(job, asked.peer.identity, self._overview.queued(job))

    def _take_hold(self, asked: _Follower, job: Job) -> None:
        """Answer Accepted; from now on the asker hears of the job, or hears its end again."""
        identity = asked.peer.identity
        _permit(asked.peer, job, "follow")
        if job.dropped:
            raise errors.ResultDropped(
                f"Job {job.id} succeeded, but its pixels are no longer kept. Submit it again with "
                "the same seeds under a new id."
            )
        self._door.send(identity, messages.Accepted(seq=asked.seq, job_id=job.id, state=job.state))
        if job.ended:
            self._ledger.tell_end(job, identity)
        elif not asked.connection.gone:  # as it may while the job is written down
            self._followers.add(job, identity)

    def _watch(self, peer: Peer, request: messages.Watch) -> None:
        watcher = self._followers.watch(peer, request.app)
        self._done(_Asked(peer, request.seq), "Watching.")
        for job in self._ledger.jobs.open():
            if job.accepted and watcher.sees(job):
                told = messages.JobSubmitted(job_id=job.id, job=self._overview.job(job))
                self._door.send(peer.identity, told)

    def _cancel(self, peer: Peer, request: messages.Cancel) -> None:
        coming = self._being_accepted.get(request.job_id)
        job = coming.job if coming else self._find(request.job_id)
        _permit(peer, job, "cancel")
        asked = _Asked(peer, request.seq)
        if job.ended:
            self._done(asked, f"Job {job.id} had ended already: {job.state}.")
            return
        # Written down or not, it is carried out: at once, or when the job is handed over.
        self._ledger.ask_cancel(job, lambda error: self._tell_cancelling(asked, job, error))
        if job.id in self._ledger.jobs:
            self._happen(events.CancelAsked(job.id))

    def _tell_cancelling(self, asked: _Asked, job: Job, error: errors.HermeticError | None) -> None:
        """Done is a promise that outlives the daemon."""
        if job.refused:
            self._door.reject(asked.peer.identity, asked.seq, _never_was(job))
        elif error is None:
            self._done(asked, "Cancelling.")
        else:
            self._door.reject(asked.peer.identity, asked.seq, _unwritten_cancel(job, error))

    # The device.

    def _unload(self, peer: Peer, request: messages.Unload) -> None:
        self._catalog().describe(request.model)
        ticket = next(self._ticket_numbers)
        self._tickets[ticket] = _Asked(peer, request.seq), request.model
        self._happen(events.UnloadAsked(request.model, ticket))

    def answer_ticket(self, answer: events.Answer) -> None:
        """What an unload has come to."""
        if answer.ticket is None:  # nobody has asked
            return
        asked, model = self._tickets.pop(answer.ticket)
        self._done(asked, f"{model} is unloaded." if answer.found else f"{model} was not loaded.")

    def _pause(self, peer: Peer, request: messages.FromApp, *, paused: bool) -> None:
        _permit_administration(peer, "pause or resume it")
        self._happen(events.PauseAsked(paused))
        words = "Paused: jobs are accepted and none is begun." if paused else "Jobs are begun."
        self._done(_Asked(peer, request.seq), words)

    def _stop(self, peer: Peer, request: messages.Stop) -> None:
        _permit_administration(peer, "end it")
        words = "Draining: no new jobs." if request.mode == "drain" else "Ending."
        self._done(_Asked(peer, request.seq), words)
        self._happen(events.EndAsked(request.mode, self._config.drain_seconds))

    def _done(self, asked: _Asked, words: str) -> None:
        self._door.send(asked.peer.identity, messages.Done(seq=asked.seq, message=words))


def _never_was(job: Job) -> errors.UnknownJob:
    return errors.UnknownJob(
        f"Job {job.id!r} could not be written down, so it never was, and what had begun of it is "
        "just being ended. Submit it again.",
        retry_after=RETRY_SECONDS,
    )


def _unwritten_cancel(job: Job, error: errors.HermeticError) -> errors.StoreUnavailable:
    return errors.StoreUnavailable(
        f"Job {job.id} is being cancelled, but that is not written down: {error.message} If the "
        "daemon dies before it can be, the job begins again: cancel it again then.",
        retry_after=RETRY_SECONDS,
    )


def _permit(peer: Peer, job: Job, verb: str) -> None:
    if not peer.may_act_for(job.app.uid):
        raise errors.NotPermitted(
            f"Job {job.id} belongs to uid {job.app.uid}; only that user or root may {verb} it, and "
            f"you are uid {peer.uid}."
        )


def _permit_administration(peer: Peer, verb: str) -> None:
    if not peer.may_act_for(os.getuid()):
        raise errors.NotPermitted(
            f"Only root or the daemon's own user (uid {os.getuid()}) may {verb}; you are uid "
            f"{peer.uid}."
        )
