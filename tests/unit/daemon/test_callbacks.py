"""Who raises keeps no other from its turn, and is told of."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hermetic_daemon import callbacks


def test_one_that_raises_is_told_of_and_the_next_is_called() -> None:
    async def play() -> tuple[list[str], list[dict[str, Any]]]:
        called, told = list[str](), list[dict[str, Any]]()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context))
        callbacks.call(loop, int, "no number")
        callbacks.call(loop, called.append, "next")
        return called, told

    called, told = asyncio.run(play())
    assert called == ["next"]
    assert [type(context["exception"]) for context in told] == [ValueError]


def test_an_end_that_was_asked_for_is_not_held_up() -> None:
    async def play() -> None:
        callbacks.call(asyncio.get_running_loop(), exit_now)

    with pytest.raises(SystemExit):
        asyncio.run(play())


def exit_now() -> None:
    raise SystemExit(3)
