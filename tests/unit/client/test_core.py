"""The client's logic without a socket."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import hermetic
from hermetic import DaemonUnreachable, MalformedMessage, Preview, ProtocolMismatch, UnknownJob
from hermetic._core import ALL_JOBS, Answered, Core, Moved, expect
from hermetic._mailbox import Mailbox
from hermetic._watching import WATCH_UPDATES, Watching
from hermetic_wire.codec import Frame
from hermetic_wire.errors import ErrorBody, JobCancelled, to_body
from hermetic_wire.generation import Image, TextToImage
from hermetic_wire.messages import (
    Accepted,
    Cancel,
    Done,
    Follow,
    FromApp,
    FromDaemon,
    Hello,
    JobEnded,
    JobFailed,
    JobLoading,
    JobPreview,
    JobQueued,
    JobRetrying,
    JobRunning,
    Jobs,
    JobStep,
    JobSubmitted,
    JobUpdate,
    ListJobs,
    Rejected,
    Stop,
    Submit,
    Watch,
    WatchUpdate,
    Welcome,
    from_app,
    from_daemon,
)
from unit.client.fake_daemon import row

_TASK = TextToImage(prompts=("a",))
_LOST = ErrorBody(code="daemon_unreachable", message="gone")


@pytest.fixture
def core() -> Core:
    """A conversation that nothing was said in."""
    return Core(app="test", version="1")


def _hear(core: Core, message: FromDaemon) -> list[Answered | Moved]:
    return core.receive(from_daemon.encode(message))


def _said(frames: list[list[Frame]]) -> list[FromApp]:
    return [from_app.decode(message)[0] for message in frames]


def _submit(core: Core, job_id: str, *, accepted: bool) -> tuple[Submit, Mailbox]:
    box = core.open_job(job_id)
    request = Submit(seq=core.number(), job_id=job_id, model="m", task=_TASK)
    core.ask(request)
    if accepted:
        _hear(core, Accepted(seq=request.seq, job_id=job_id, state="queued"))
    return request, box


def _failed(job_id: str) -> JobFailed:
    return JobFailed(job_id=job_id, state="cancelled", error=to_body(JobCancelled("over")))


def test_replies_are_paired_by_number_in_any_order(core: Core) -> None:
    first, second = ListJobs(seq=core.number()), ListJobs(seq=core.number())
    core.ask(first)
    core.ask(second)

    for request in (second, first):
        reply = Jobs(seq=request.seq, jobs=())
        assert _hear(core, reply) == [Answered(request.seq, reply)]
        assert _hear(core, reply) == []
    assert not core.busy


def test_greetings(core: Core) -> None:
    [hello] = _said([core.hello()])
    assert isinstance(hello, Hello)
    assert (hello.app, hello.version) == ("test", "1")
    assert core.greeted(from_daemon.encode(Welcome(seq=hello.seq, version="1", pid=1)))
    assert not core.greeted(from_daemon.encode(_failed("of another life")))
    refusal = Rejected(seq=hello.seq, error=ErrorBody(code="protocol_mismatch", message="older"))
    with pytest.raises(ProtocolMismatch, match="older"):
        core.greeted(from_daemon.encode(refusal))


def test_replies_of_the_wrong_kind() -> None:
    with pytest.raises(MalformedMessage, match="Done where Jobs"):
        expect(Jobs, Done(seq=1, message=""))
    with pytest.raises(UnknownJob):
        expect(Jobs, Rejected(seq=1, error=ErrorBody(code="unknown_job", message="")))


def test_after_a_reconnect_requests_are_said_again_and_jobs_followed(core: Core) -> None:
    new, _ = _submit(core, "new", accepted=False)
    _submit(core, "old", accepted=True)
    _submit(core, "ended", accepted=True)
    _hear(core, _failed("ended"))
    query = ListJobs(seq=core.number())
    core.ask(query)
    core.ask(stop := Stop(seq=core.number()))

    [ended] = core.disconnected()
    assert isinstance(ended, Answered)
    assert ended.seq == stop.seq
    said = _said(core.resume())
    assert said[:2] == [new, query]
    assert [follow.job_id for follow in said[2:] if isinstance(follow, Follow)] == ["old"]


def test_a_job_that_the_next_daemon_does_not_know_is_lost(core: Core) -> None:
    _, box = _submit(core, "mine", accepted=True)
    core.resume()
    [follow] = _said(core.resume())
    refusal = Rejected(seq=follow.seq, error=ErrorBody(code="unknown_job", message="No such job."))

    assert _hear(core, refusal) == [Moved("mine")]
    with pytest.raises(UnknownJob, match="restarted"):
        box.check()
    assert not core.busy


def test_a_job_that_is_asked_for_again_is_lost_too(core: Core) -> None:
    _, box = _submit(core, "mine", accepted=True)
    core.ask(Follow(seq=core.number(), job_id="mine"))
    unknown = ErrorBody(code="unknown_job", message="No such job.")
    for request in _said(core.resume()):
        _hear(core, Rejected(seq=request.seq, error=unknown))

    with pytest.raises(UnknownJob, match="restarted"):
        box.check()
    assert not core.busy


def test_an_unaccepted_job_is_forgotten_an_accepted_one_is_not(core: Core) -> None:
    request, box = _submit(core, "mine", accepted=False)
    _, kept = _submit(core, "kept", accepted=True)
    core.forget(request.seq)
    core.close_unaccepted(box)
    core.close_unaccepted(kept)

    assert _hear(core, _failed("mine")) == []
    assert core.open_job("kept") is kept


def test_a_job_asked_for_twice_is_kept_when_one_of_them_fails(core: Core) -> None:
    given_up, box = _submit(core, "mine", accepted=False)
    request, same = _submit(core, "mine", accepted=False)
    core.forget(given_up.seq)
    core.close_unaccepted(box)
    _hear(core, Accepted(seq=request.seq, job_id="mine", state="queued"))
    core.close_unaccepted(same)

    assert _hear(core, _failed("mine")) == [Moved("mine")]
    assert box is same
    assert box.over


def test_a_request_for_a_job_that_ended_leaves_a_later_one_alone(core: Core) -> None:
    _, ended = _submit(core, "mine", accepted=True)
    _hear(core, _failed("mine"))
    request, box = _submit(core, "mine", accepted=False)
    core.close_unaccepted(ended)

    _hear(core, Accepted(seq=request.seq, job_id="mine", state="queued"))
    assert _hear(core, _failed("mine")) == [Moved("mine")]
    assert box.over


def test_bytes_of_ours_that_were_no_message_answer_everything(core: Core) -> None:
    core.ask(ListJobs(seq=core.number()))
    core.ask(ListJobs(seq=core.number()))
    refusal = Rejected(seq=None, error=ErrorBody(code="malformed_message", message="what?"))
    assert len(_hear(core, refusal)) == 2
    assert not core.busy


def test_what_cannot_be_understood_costs_whom_it_was_for(core: Core) -> None:
    core.ask(query := ListJobs(seq=core.number()))
    _, box = _submit(core, "mine", accepted=True)

    broken = {"type": "jobs", "seq": query.seq, "jobs": "none"}
    [answer] = core.receive([msgpack.packb(broken)])
    assert isinstance(answer, Answered)
    assert isinstance(answer.reply, Rejected)
    unknown = {"type": "job_dreaming", "job_id": "mine"}
    assert core.receive([msgpack.packb(unknown)]) == []
    assert not box.over
    assert core.receive([msgpack.packb({"type": "job_step", "job_id": "mine"})]) == [Moved("mine")]
    with pytest.raises(MalformedMessage):
        box.check()


@given(st.lists(st.binary(max_size=64), max_size=3))
def test_arbitrary_bytes_never_raise(frames: list[Frame]) -> None:
    core = Core(app="", version="")
    _submit(core, "mine", accepted=True)
    core.receive(frames)


_NEWS = st.one_of(
    st.builds(JobQueued, job_id=st.just("j"), position=st.integers(0, 9)),
    st.builds(JobRetrying, job_id=st.just("j"), attempt=st.integers(1, 2), error=st.just(_LOST)),
    st.builds(JobLoading, job_id=st.just("j"), stage=st.just("s"), fraction=st.floats(0, 1)),
    st.builds(JobRunning, job_id=st.just("j"), epoch=st.integers(0, 9), pid=st.just(1)),
    st.builds(JobStep, job_id=st.just("j"), step=st.integers(1, 9), steps=st.just(9)),
    st.just(_failed("j")),
)


@given(st.lists(st.one_of(_NEWS, st.none())))
def test_a_mailbox_keeps_order_newest_and_the_first_end(events: list[JobUpdate | None]) -> None:
    """None is the app that takes one."""
    box, told, taken = Mailbox("j"), list[JobUpdate](), list[object]()
    for event in events:
        if event is not None:
            told += [] if box.over else [event]
            box.put(event)
        elif (update := box.take()) is not None:
            taken.append(update)
    while (update := box.take()) is not None:
        taken.append(update)
        if update is box.end:
            break

    rest = iter(told)
    assert all(any(update is one for one in rest) for update in taken if update is not box.end)
    if told:
        assert taken[-1] is told[-1]


def _watch(core: Core, *open_jobs: str) -> Watching:
    """A watch that has begun and was told of these jobs."""
    watching = core.open_watch(None)
    core.ask(watch := Watch(seq=core.number()))
    _hear(core, Done(seq=watch.seq, message="Watching."))
    for job_id in open_jobs:
        _hear(core, JobSubmitted(job_id=job_id, job=row(job_id)))
        watching.take()
    return watching


def test_a_watch_cut_off_before_its_answer_is_asked_again_once(core: Core) -> None:
    core.open_watch("easel")
    core.ask(watch := Watch(seq=core.number(), app="easel"))
    assert _said(core.resume()) == [watch]
    _hear(core, Done(seq=watch.seq, message="Watching."))
    _hear(core, JobSubmitted(job_id="j", job=row("j")))
    again, listing = _said(core.resume())
    assert again == Watch(seq=again.seq, app="easel")
    assert listing == ListJobs(seq=listing.seq, job_ids=("j",))


def test_however_many_jobs_are_open_each_is_asked_for_once_and_replies_have_room(
    core: Core,
) -> None:
    job_ids = [f"{number:064}" for number in range(10_000)]
    _watch(core, *job_ids)
    _, *questions = _said(core.resume())
    asked = [one.job_ids or () for one in questions if isinstance(one, ListJobs)]
    assert [job_id for some in asked for job_id in some] == job_ids

    long_words = ErrorBody(code="quarantined", message="\N{MUSICAL SYMBOL G CLEF}" * 400)
    failed = (replace(row(job_ids[0], "failed", 9.0), error=long_words),) * len(asked[0])
    from_daemon.encode(Jobs(seq=1, jobs=failed))


def test_an_end_that_was_told_meanwhile_is_not_told_again(core: Core) -> None:
    watching = _watch(core, "j")
    _, question = _said(core.resume())
    _hear(core, end := JobEnded(job_id="j", job=row("j", "failed")))
    assert watching.take() == end
    _hear(core, Jobs(seq=question.seq, jobs=(row("j", "failed"),)))
    assert watching.take() is None


def test_a_job_that_an_older_daemon_omits_is_not_taken_for_forgotten(core: Core) -> None:
    watching = _watch(core, "ended", "omitted")
    _, question = _said(core.resume())
    rows = (row("another"), row("ended", "failed"))
    _hear(core, Jobs(seq=question.seq, jobs=rows, omitted=1))
    assert watching.take() == JobEnded(job_id="ended", job=row("ended", "failed"))
    assert watching.take() is None


def test_a_watch_that_the_next_daemon_refuses_is_lost(core: Core) -> None:
    watching = _watch(core)
    [again] = _said(core.resume())
    assert _hear(core, Rejected(seq=again.seq, error=_LOST)) == [Moved(ALL_JOBS)]
    with pytest.raises(DaemonUnreachable, match="gone"):
        watching.take()
    assert not core.busy


def test_broken_news_of_all_jobs_costs_the_watch(core: Core) -> None:
    watching = core.open_watch(None)
    broken = {"type": "job_ended", "job_id": "j", "job": "none"}
    assert core.receive([msgpack.packb(broken)]) == [Moved(ALL_JOBS)]
    with pytest.raises(MalformedMessage):
        watching.take()


def test_of_one_jobs_news_of_one_kind_only_the_newest_waits(core: Core) -> None:
    watching = core.open_watch(None)
    _hear(core, JobStep(job_id="a", step=1, steps=9))
    _hear(core, JobStep(job_id="b", step=1, steps=9))
    _hear(core, newest := JobStep(job_id="a", step=2, steps=9))
    assert [watching.take() for _ in range(3)][1:] == [newest, None]


def test_all_news_of_a_watch_is_known() -> None:
    assert set(WATCH_UPDATES) == set(get_args(WatchUpdate))


_SHOWN = Image(width=1, height=1)


def test_a_preview_that_comes_after_the_end_is_dropped(core: Core) -> None:
    _, box = _submit(core, "mine", accepted=True)
    _hear(core, _failed("mine"))
    late = from_daemon.encode(JobPreview(job_id="mine", step=1, image=_SHOWN), [b"rgb"])
    assert core.receive(late) == []
    assert box.take() is box.end


def test_a_preview_without_its_pixels_costs_its_job(core: Core) -> None:
    _, box = _submit(core, "mine", accepted=True)
    assert _hear(core, JobPreview(job_id="mine", step=1, image=_SHOWN)) == [Moved("mine")]
    with pytest.raises(MalformedMessage, match="preview"):
        box.check()


def test_a_slow_app_finds_the_newest_step_and_the_newest_preview() -> None:
    box = Mailbox("j")
    box.put(JobRunning(job_id="j", epoch=1, pid=1))
    for step in range(1, 9):
        box.put(JobStep(job_id="j", step=step, steps=9))
        box.put(JobPreview(job_id="j", step=step, image=_SHOWN), [b"rgb"])
    box.put(JobStep(job_id="j", step=9, steps=9))
    running, preview, step_, none = (box.take() for _ in range(4))
    assert isinstance(running, JobRunning)
    assert isinstance(preview, Preview)
    assert preview.step == 8
    assert step_ == JobStep(job_id="j", step=9, steps=9)
    assert none is None


def test_the_shortest_time_between_previews_is_asked_for_again(core: Core) -> None:
    _submit(core, "mine", accepted=True)
    for pace in (3.0, None, 1.0, 2.0):
        core.open_job("mine", pace)
    [follow] = _said(core.resume())
    assert follow == Follow(seq=follow.seq, job_id="mine", preview_seconds=1.0)


def test_a_job_that_is_tried_again_waits(core: Core) -> None:
    _, box = _submit(core, "mine", accepted=True)
    _hear(core, JobRunning(job_id="mine", epoch=1, pid=1))
    _hear(core, JobRetrying(job_id="mine", attempt=1, error=_LOST))
    assert box.state == "queued"


def test_no_update_of_another_kind_is_skipped() -> None:
    box = Mailbox("j")
    told: list[JobUpdate] = [
        JobQueued(job_id="j", position=2),
        JobQueued(job_id="j", position=1),
        JobRunning(job_id="j", epoch=1, pid=1),
        JobStep(job_id="j", step=1, steps=3),
        JobStep(job_id="j", step=2, steps=3),
        JobQueued(job_id="j", position=0),
    ]
    for update in told:
        box.put(update)
    assert [box.take() for _ in range(5)] == [*told[1:3], *told[4:], None]
    assert box.state == "queued"


@given(st.lists(st.sampled_from(["submit", "ask", "cut", "accept", "end", "abandon"]), max_size=30))
def test_every_request_is_answered_and_every_job_ends_once(steps: list[str]) -> None:
    """Whatever happens in whatever order, nobody is left waiting after the daemon was given up."""
    core = Core(app="", version="")
    waiting: set[int] = set()
    boxes: list[Mailbox] = []

    def settle(events: list[Answered | Moved]) -> None:
        for event in events:
            if isinstance(event, Answered):
                waiting.remove(event.seq)

    for number, step in enumerate([*steps, "abandon"]):
        match step:
            case "submit":
                request, box = _submit(core, f"j{number}", accepted=False)
                waiting.add(request.seq)
                boxes.append(box)
            case "ask":
                core.ask(cancel := Cancel(seq=core.number(), job_id="x"))
                waiting.add(cancel.seq)
            case "cut":
                settle(core.disconnected())
                again = {one.seq for one in _said(core.resume())}
                assert waiting <= again
            case "accept" if boxes and waiting:
                box, seq = boxes[-1], min(waiting)
                settle(_hear(core, Accepted(seq=seq, job_id=box.job_id, state="queued")))
            case "end" if boxes:
                settle(_hear(core, _failed(boxes[-1].job_id)))
            case "abandon":
                settle(core.abandon(_LOST))
                assert not waiting
                assert not core.busy
                assert all(box.over for box in boxes)
            case _:
                pass


@pytest.mark.parametrize(
    "module", ["_core", "_duration", "_generators", "_mailbox", "_task", "_terms", "_watching"]
)
def test_the_logic_is_pure(module: str) -> None:
    source = Path(hermetic.__file__).with_name(f"{module}.py").read_text()
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name) or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert not {"zmq", "asyncio", "time", "threading", "socket"} & imported
