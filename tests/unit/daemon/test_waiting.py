"""The queue against one that does everything the slow and obvious way."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hermetic_daemon.events import Submitted
from hermetic_daemon.lines import Lane, Line, WaitingJob
from hermetic_daemon.waiting import Waiting

SECONDS = {"quick": 0.5, "slow": 3.0, "other": 1.0}
MODELS = st.sampled_from(sorted(SECONDS))
RANKS = ("high", "normal", "low")


@dataclass
class Known:
    """A waiting job as the slow queue has it."""

    submitted: Submitted
    number: int
    overtaken: int = 0


class WaitingMachine(RuleBasedStateMachine):
    """Tags are read from the queue under test; order, counts and choices are worked out anew."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting(SECONDS.__getitem__)
        self.known: dict[str, Known] = {}
        self.aside: set[str] = set()
        self.submitted = 0
        self.begun: tuple[WaitingJob, Known, float] | None = None

    @rule(
        model=MODELS,
        app=st.sampled_from("ab"),
        priority=st.sampled_from([*RANKS, "normal", "normal", "normal"]),
        count=st.integers(1, 6),
    )
    def submit(self, model: str, app: str, priority: str, count: int) -> None:
        for _ in range(count):
            job = Submitted(f"job-{self.submitted}", model, app, priority)  # type: ignore[arg-type]
            self.waiting.submit(job, 0.0)
            self.known[job.job_id] = Known(job, self.submitted)
            self.submitted += 1

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.known)))
        self.waiting.remove(self.job(job_id), 0.0)
        del self.known[job_id]

    @rule(model=MODELS)
    def set_aside_or_bring_back(self, model: str) -> None:
        if model in self.aside:
            self.waiting.bring_back(model, 0.0)
        else:
            self.waiting.set_aside(model, 0.0)
        self.aside ^= {model}

    @precondition(lambda self: self.begun is None and self.waiting.first())
    @rule()
    def begin_the_first(self) -> None:
        job = self.waiting.first()
        assert job is not None
        self.begin(job)

    @precondition(lambda self: self.begun is None)
    @rule(model=MODELS, limit=st.integers(1, 3))
    def begin_the_first_of_a_model(self, model: str, limit: int) -> None:
        in_order = self.in_order()
        wanted = [one for one in in_order if one.submitted.model == model]
        job = self.waiting.first_for([model])
        if not wanted:
            assert job is None
            return
        assert job is not None
        assert job.id == wanted[0].submitted.job_id
        passed = in_order[: in_order.index(wanted[0])]
        allowed = all(one.overtaken < limit for one in passed)
        assert self.waiting.overtake(job, lambda model: limit) == allowed
        if allowed:
            for one in passed:
                one.overtaken += 1
            self.begin(job)

    def begin(self, job: WaitingJob) -> None:
        charged = self.waiting.begin(job, 0.0, 0.0)
        self.begun = job, self.known.pop(job.id), charged

    @precondition(lambda self: self.begun is not None)
    @rule(seconds=st.sampled_from([0.0, 0.5, 7.0]), again=st.booleans())
    def end(self, seconds: float, again: bool) -> None:
        assert self.begun is not None
        job, known, charged = self.begun
        if again:
            self.waiting.add(job, 0.0)
            self.known[job.id] = known
        self.waiting.end(job, charged, seconds)
        self.begun = None

    def job(self, job_id: str) -> WaitingJob:
        job = self.waiting.get(job_id)
        assert job is not None
        return job

    def in_order(self) -> list[Known]:
        """Those that may run, by class, then by what their line will have had by then, then by
        age."""
        places = {}
        for rank in RANKS:
            for app in "ab":
                line = sorted(
                    (
                        one
                        for one in self.known.values()
                        if (one.submitted.priority, one.submitted.app) == (rank, app)
                        and one.submitted.model not in self.aside
                    ),
                    key=lambda one: one.number,
                )
                each = sum(SECONDS[one.submitted.model] for one in line) / max(1, len(line))
                for index, one in enumerate(line):
                    tag = self.job(one.submitted.job_id).line.tag
                    places[one.number] = RANKS.index(rank), tag + index * each, one.number
        eligible = [one for one in self.known.values() if one.number in places]
        return sorted(eligible, key=lambda one: places[one.number])

    @invariant()
    def the_first_is_the_first(self) -> None:
        in_order, first = self.in_order(), self.waiting.first()
        assert (first.id if first else None) == (in_order[0].submitted.job_id if in_order else None)

    @invariant()
    def everyone_is_there_in_order_and_with_the_right_count(self) -> None:
        found = self.waiting.in_order()
        in_order = self.in_order()
        eligible = [one.submitted.job_id for one in in_order]
        assert [job.id for job, _ in found][: len(eligible)] == eligible
        assert {job.id for job, _ in found} == self.known.keys()
        assert len(self.waiting) == len(self.known)
        for job, count in found:
            assert count == self.known[job.id].overtaken

    @invariant()
    def a_queue_at_rest_remembers_nobody(self) -> None:
        if not self.known and self.begun is None:
            assert all(not group.lines for group in self.waiting._classes.values())


WaitingMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=30)
TestWaiting = WaitingMachine.TestCase


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "pass", "leave", "begin", "begin again"]), st.floats(0, 1)
        ),
        max_size=30,
    )
)
def test_a_lane_counts_as_if_it_went_from_job_to_job(steps: list[tuple[str, float]]) -> None:
    """`again`: the first comes back as soon as it was begun, as from a worker that died."""
    line = Line("app", SECONDS.__getitem__)
    lane, counts = Lane(line, "quick"), dict[int, int]()
    for number, (step, where) in enumerate(steps):
        chosen = lane.jobs[int(where * (len(lane.jobs) - 1))] if lane.jobs else None
        if step == "add" or chosen is None:
            job = Submitted(f"job-{number}", "quick", "app")
            lane.add(WaitingJob(job, number, line))
            counts[number] = 0
        elif step == "pass":
            lane.pass_by(chosen.number)
            counts = {one: count + (one < chosen.number) for one, count in counts.items()}
        elif step == "leave":
            lane.remove(chosen)
            del counts[chosen.number]
        else:
            first = lane.jobs[0]
            lane.remove(first)
            assert first.overtaken == counts.pop(first.number)
            if step == "begin again":
                lane.add(first)
                counts[first.number] = first.overtaken
        assert lane.counts() == [counts[job.number] for job in lane.jobs]
        assert lane.front_count == max(counts.values(), default=0)


def test_apps_that_have_gone_are_forgotten_while_others_work() -> None:
    """Each app's share is kept as long as it is ahead, and no longer."""
    waiting = Waiting(lambda model: 1.0)
    for number in range(2000):
        waiting.submit(Submitted(f"job-{number}", "echo", f"app-{number}"), 0.0)
        waiting.submit(Submitted(f"more-{number}", "echo", "resident"), 0.0)
        for _ in range(2):
            job = waiting.first()
            assert job is not None
            charged = waiting.begin(job, 0.0, 0.0)
            waiting.submit(Submitted(f"next-{job.id}", "echo", "resident"), 0.0)
            waiting.end(job, charged, 1.0)
    assert len(waiting._classes[1].lines) < 200


def run_first(waiting: Waiting, seconds: float) -> str:
    """The first in fair order begins and ends; returns its id."""
    job = waiting.first()
    assert job is not None
    waiting.end(job, waiting.begin(job, 0.0, 0.0), seconds)
    return job.id


def test_only_those_who_are_passed_have_a_say_in_it() -> None:
    """What stands behind the one that overtakes may have been overtaken enough."""
    limits = {"first": 2, "quick": 1, "slow": 1, "other": 1}
    waiting = Waiting(lambda model: 1.0)
    for model in limits:
        waiting.submit(Submitted(model, model, "app"), 0.0)
    for model in ("other", "quick"):
        job = waiting.first_for([model])
        assert job is not None
        assert waiting.overtake(job, limits.__getitem__)
        waiting.end(job, waiting.begin(job, 0.0, 0.0), 1.0)
    assert [count for _, count in waiting.in_order()] == [2, 1]


def test_who_comes_after_one_has_overtaken_starts_where_the_overtaken_stand() -> None:
    """Else a newcomer would wait for as long as the overtaker has had more than its share."""
    waiting = Waiting(SECONDS.__getitem__)
    waiting.submit(Submitted("heavy-1", "quick", "heavy"), 0.0)
    waiting.submit(Submitted("heavy-2", "quick", "heavy"), 0.0)
    for number in range(10):
        waiting.submit(Submitted(f"light-{number}", "slow", "light"), 0.0)
    assert run_first(waiting, 30.0) == "heavy-1"
    job = waiting.first_for(["quick"])
    assert job is not None
    assert waiting.overtake(job, lambda model: 1)
    waiting.end(job, waiting.begin(job, 0.0, 0.0), 30.0)
    waiting.submit(Submitted("new", "slow", "newcomer"), 0.0)
    assert [run_first(waiting, 3.0) for _ in range(3)] == ["light-0", "new", "light-1"]
