"""The client's logic without its input and output: messages in, messages and events out.

Pairs replies with requests, keeps a mailbox per job (or a watch over all of them) and knows what
must be said again after a reconnect. Opens no socket, knows no clock, no thread and no event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any, TypeAlias, TypeVar, get_args

import msgspec

from hermetic_wire.codec import Frame, unpack
from hermetic_wire.errors import (
    ErrorBody,
    HermeticError,
    MalformedMessage,
    UnknownJob,
    from_body,
    to_body,
)
from hermetic_wire.messages import (
    JOB_UPDATES,
    Accepted,
    Bye,
    Done,
    Follow,
    FromApp,
    Hello,
    JobEnded,
    Jobs,
    JobSubmitted,
    JobUpdate,
    ListJobs,
    Rejected,
    Reply,
    Stop,
    Watch,
    Welcome,
    from_app,
    from_daemon,
)

from ._mailbox import Mailbox
from ._watching import WATCH_UPDATES, Watching

__all__ = ["ALL_JOBS", "Answered", "Core", "Event", "Moved", "expect"]

ALL_JOBS = "*"
"""Where a job's id stands elsewhere; no job can have it."""
_ASKED_AT_ONCE = 250
"""Jobs of which a watch that begins again asks in one request: few enough for one reply, whatever
their errors say."""
_UPDATE_TYPES = {kind.__struct_config__.tag for kind in get_args(JobUpdate)}
_WATCH_TYPES = {kind.__struct_config__.tag for kind in WATCH_UPDATES}


class Answered(msgspec.Struct, frozen=True):
    """A request of the app has its reply, which may be Rejected."""

    seq: int
    reply: Reply


class Moved(msgspec.Struct, frozen=True):
    """A job's mailbox has news, or for ALL_JOBS the watch has."""

    job_id: str


Event: TypeAlias = Answered | Moved
Expected = TypeVar("Expected", bound=msgspec.Struct)


class Core:
    """One client's conversation with the daemon, over as many connections as it takes."""

    def __init__(self, *, app: str, version: str) -> None:
        self._app = app
        self._version = version
        self._numbers = count(1)
        self._asked: dict[int, FromApp] = {}
        self._jobs: dict[str, Mailbox] = {}
        self._refollowed: dict[int, str] = {}
        self._watching: Watching | None = None
        self._rewatched: dict[int, list[str]] = {}
        """Requests by which a watch begins again, with the ids of the jobs that they are about."""

    @property
    def busy(self) -> bool:
        """Whether a reply or a job's end is still awaited, or jobs are watched."""
        waited_for = any(box.accepted for box in self._jobs.values())
        return bool(self._asked) or waited_for or self._watching is not None

    def number(self) -> int:
        """The `seq` for the next request."""
        return next(self._numbers)

    def hello(self) -> list[Frame]:
        """The first message of every connection."""
        return from_app.encode(Hello(seq=self.number(), app=self._app, version=self._version))

    def bye(self) -> list[Frame]:
        """The last message of a connection that nobody needs any more."""
        return from_app.encode(Bye(seq=self.number()))

    def greeted(self, frames: Sequence[Frame]) -> bool:
        """Whether this is the daemon's Welcome. Raises the error of a refusal."""
        message, _ = from_daemon.decode(frames)
        if isinstance(message, Rejected):
            raise from_body(message.error)
        return isinstance(message, Welcome)

    def ask(self, request: FromApp) -> list[Frame]:
        """The frames of a request whose reply is awaited from now on."""
        frames = from_app.encode(request)
        self._asked[request.seq] = request
        return frames

    def forget(self, seq: int) -> None:
        """Nobody waits for this reply any more."""
        self._asked.pop(seq, None)

    def open_job(self, job_id: str, preview_seconds: float | None = None) -> Mailbox:
        """The job's mailbox, new or the one that is open already, for one request that asks for it;
        `close_unaccepted` follows once nobody waits for that request's reply."""
        box = self._jobs.setdefault(job_id, Mailbox(job_id))
        box.asking += 1
        box.ask_previews(preview_seconds)
        return box

    def close_unaccepted(self, box: Mailbox) -> None:
        """One request for the job is over. Where it was the last one and the daemon did not take
        the job, or nobody learnt whether it did, no news of it is kept any more."""
        box.asking -= 1
        wanted = box.asking or box.accepted
        if not wanted and self._jobs.get(box.job_id) is box:
            del self._jobs[box.job_id]

    def open_watch(self, app: str | None) -> Watching:
        """The one watch of this conversation; what follows jobs needs one of its own."""
        self._watching = Watching(app)
        return self._watching

    def receive(self, frames: Sequence[Frame]) -> list[Event]:
        """What a message of the daemon changes. Bytes that are none cost whom they were for."""
        try:
            message, raw = from_daemon.decode(frames)
        except HermeticError as error:
            return self._not_understood(frames, to_body(error))
        if self._watching is not None and isinstance(message, WATCH_UPDATES):
            self._watching.put(message)
            return [Moved(ALL_JOBS)]
        if isinstance(message, (JobSubmitted, JobEnded)):
            return []  # of a watch that nobody has here
        if isinstance(message, JOB_UPDATES):
            return self._update(message, raw)
        if isinstance(message, Rejected) and message.seq is None:
            # The daemon could not read something of ours and cannot say what: no request may
            # wait for ever, so all of them are answered by this.
            return self._reject_all(message.error)
        return self._reply(message)

    def disconnected(self) -> list[Event]:
        """The connection is lost. A Stop is answered by that: asked again, it would hit the next
        daemon."""
        return [
            self._answer(seq, Done(seq=seq, message="The daemon has ended."))
            for seq, request in list(self._asked.items())
            if isinstance(request, Stop)
        ]

    def resume(self) -> list[list[Frame]]:
        """What to send, in order, once a new connection was greeted.

        Every request without a reply again, then Follow for every job that was accepted, and Watch.
        """
        self._refollowed.clear()
        self._rewatched.clear()
        messages = [from_app.encode(request) for request in self._asked.values()]
        # Also a job that one of the requests is for: its asker may leave before the reply comes, or
        # take a refusal for itself.
        for job_id, box in self._jobs.items():
            if box.accepted:
                seq = self.number()
                self._refollowed[seq] = job_id
                follow = Follow(seq=seq, job_id=job_id, preview_seconds=box.preview_seconds)
                messages.append(from_app.encode(follow))
        return messages + self._watch_again()

    def _watch_again(self) -> list[list[Frame]]:
        """A Watch that has begun, and the question of what has ended since it was cut off."""
        if self._watching is None or not self._watching.begun:
            return []
        watch = Watch(seq=self.number(), app=self._watching.app)
        job_ids = self._watching.open
        asked = {
            self.number(): job_ids[start : start + _ASKED_AT_ONCE]
            for start in range(0, len(job_ids), _ASKED_AT_ONCE)
        }
        self._rewatched = {watch.seq: [], **asked}
        questions = [ListJobs(seq=seq, job_ids=tuple(some)) for seq, some in asked.items()]
        return [from_app.encode(watch), *map(from_app.encode, questions)]

    def abandon(self, error: ErrorBody) -> list[Event]:
        """The daemon will not be waited for: everything that waits is answered by `error`."""
        self._refollowed.clear()
        lost = [self._lose(job_id, error) for job_id in list(self._jobs)]
        return self._reject_all(error) + lost + self._lose_watch(error)

    def _reject_all(self, error: ErrorBody) -> list[Event]:
        return [self._answer(seq, Rejected(seq=seq, error=error)) for seq in list(self._asked)]

    def _answer(self, seq: int, reply: Reply) -> Answered:
        del self._asked[seq]
        return Answered(seq, reply)

    def _reply(self, reply: Reply) -> list[Event]:
        events: list[Event] = []
        if isinstance(reply, Accepted) and (box := self._jobs.get(reply.job_id)):
            box.accept(reply.state)
            events.append(Moved(reply.job_id))
        if reply.seq in self._asked:
            self._note_begin(reply)
            events.append(self._answer(reply.seq, reply))
        elif reply.seq in self._rewatched:
            events += self._rewatch(reply)
        elif (job_id := self._refollowed.pop(reply.seq or 0, None)) and isinstance(reply, Rejected):
            events.append(self._lose(job_id, _after_restart(job_id, reply.error)))
        return events

    def _note_begin(self, reply: Reply) -> None:
        """The daemon's Done to a Watch."""
        if self._watching is not None and isinstance(self._asked[reply.seq or 0], Watch):
            self._watching.begun = isinstance(reply, Done)

    def _rewatch(self, reply: Reply) -> list[Event]:
        """A daemon that came back tells again, and says what ended meanwhile."""
        asked = self._rewatched.pop(reply.seq or 0)
        if self._watching is None:
            return []
        match reply:
            case Jobs():
                self._watching.catch_up(asked, reply)
                return [Moved(ALL_JOBS)]
            case Rejected(error=error):
                return self._lose_watch(error)
            case _:
                return []

    def _lose_watch(self, error: ErrorBody) -> list[Event]:
        if self._watching is None:
            return []
        self._watching.lose(error)
        self._watching = None
        return [Moved(ALL_JOBS)]

    def _update(self, update: JobUpdate, raw: Sequence[Frame]) -> list[Event]:
        box = self._jobs.get(update.job_id)
        if box is None:
            return []
        try:
            box.put(update, raw)
        except HermeticError as error:
            return [self._lose(box.job_id, to_body(error))]
        if box.over:
            del self._jobs[box.job_id]
        return [Moved(box.job_id)]

    def _lose(self, job_id: str, error: ErrorBody) -> Moved:
        self._jobs.pop(job_id, Mailbox(job_id)).lose(error)
        return Moved(job_id)

    def _not_understood(self, frames: Sequence[Frame], error: ErrorBody) -> list[Event]:
        """A newer daemon's unknown kind of news is passed over; a broken reply or a broken update
        ends what waits for it."""
        fields = _plain_fields(frames)
        seq, job_id = fields.get("seq"), fields.get("job_id")
        if isinstance(seq, int) and seq in self._asked:
            return [self._answer(seq, Rejected(seq=seq, error=error))]
        if isinstance(job_id, str) and job_id in self._jobs and fields["type"] in _UPDATE_TYPES:
            return [self._lose(job_id, error)]
        return self._lose_watch(error) if fields.get("type") in _WATCH_TYPES else []


def _plain_fields(frames: Sequence[Frame]) -> dict[str, Any]:
    try:
        fields = unpack(frames[0]) if frames else None
    except HermeticError:
        return {}
    return {"type": None, **fields} if isinstance(fields, dict) else {}


def _after_restart(job_id: str, error: ErrorBody) -> ErrorBody:
    if error.code != UnknownJob.code:
        return error
    return ErrorBody(
        code=UnknownJob.code,
        message=f"The daemon was restarted and does not know job {job_id} any more: "
        f"{error.message} Submit it again.",
    )


def expect(kind: type[Expected], reply: Reply) -> Expected:
    """The reply. Raises the error of a refusal, MalformedMessage for a reply of another kind."""
    if isinstance(reply, Rejected):
        raise from_body(reply.error)
    if not isinstance(reply, kind):
        raise MalformedMessage(
            f"The daemon answered with {type(reply).__name__} where {kind.__name__} was due."
        )
    return reply
