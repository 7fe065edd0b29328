"""An alarm rings once, at the moment that was set last, however often it was put off."""

from __future__ import annotations

import functools

from hypothesis import example, given
from hypothesis import strategies as st

from hermetic_daemon.alarm import Alarm
from support.clock import ClockLoop, advance, timed

MINUTE = 60.0
"""So long that what the test itself takes does not matter."""
MINUTES = st.integers(1, 6)
Play = list[tuple[str, int]]


@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "advance"]), MINUTES) | st.just(("clear", 0)), max_size=25
    )
)
@example([("set", 1), ("set", 5), ("advance", 3), ("advance", 3)])
@example([("set", 5), ("set", 1), ("advance", 2), ("advance", 6)])
@example([("set", 3), ("clear", 0), ("set", 1), ("advance", 2), ("advance", 6)])
def test_it_rings_at_the_moment_that_was_set_last(play: Play) -> None:
    timed(follow(play))


async def follow(play: Play) -> None:
    """Beside a model in whole minutes; half a minute keeps any two moments apart."""
    loop = ClockLoop.get_running()
    rung: list[int] = []
    alarm = Alarm(loop)
    now, due = 0, None
    expected: list[int] = []
    for number, (what, minutes) in enumerate(play):
        if what == "set":
            at = loop.time() + (minutes - 0.5) * MINUTE
            alarm.set(at, functools.partial(rung.append, number))
            due = now + minutes, number
        elif what == "clear":
            alarm.clear()
            due = None
        else:
            now += minutes
            await advance(minutes * MINUTE)
            if due is not None and due[0] <= now:
                expected.append(due[1])
                due = None
        assert rung == expected


def test_what_it_calls_may_set_it_again() -> None:
    async def play() -> None:
        alarm, rung = Alarm(loop := ClockLoop.get_running()), list[str]()

        def ring() -> None:
            rung.append("first")
            alarm.set(loop.time() + MINUTE, lambda: rung.append("second"))

        alarm.set(loop.time() + MINUTE, ring)
        await advance(2 * MINUTE)
        assert rung == ["first"]
        await advance(2 * MINUTE)
        assert rung == ["first", "second"]

    timed(play())
