"""One tree, one table, complete both ways."""

from __future__ import annotations

import inspect
import re

import pytest

from hermetic_wire import errors
from hermetic_wire.errors import (
    MOST_WORDS,
    ErrorBody,
    HermeticError,
    ResultTimeout,
    UnknownJob,
    error_classes,
    from_body,
    to_body,
)
from hermetic_wire.messages import Rejected, from_daemon

ALL = sorted(error_classes().values(), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ALL)
def test_every_error_survives_the_way(kind: type[HermeticError]) -> None:
    body = to_body(kind("what to do", retry_after=2.5, report="how it ended"))
    back = from_body(body)

    assert type(back) is kind
    assert (str(back), back.message) == ("what to do", "what to do")
    assert (back.retry_after, back.report) == (2.5, "how it ended")
    assert to_body(back) == body


@pytest.mark.parametrize("character", ["a", "\x00", "\N{SKULL}"])
def test_an_error_of_any_length_is_told(character: str) -> None:
    """An app that quotes a megabyte gets an answer, and no message that cannot be sent."""
    endless = to_body(UnknownJob(character * 10**6, report=character * 10**6))
    (header,) = from_daemon.encode(Rejected(seq=1, error=endless))
    told, _ = from_daemon.decode([header])
    assert isinstance(told, Rejected)
    assert told.error == endless
    assert endless.message == character * (MOST_WORDS - 3) + "..."


def test_every_class_of_the_file_is_in_the_table_and_the_reverse() -> None:
    written = {
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, HermeticError)
    }
    ours = {kind for kind in ALL if kind.__module__ == errors.__name__}
    assert written == ours
    assert {kind.__name__ for kind in ours} <= set(errors.__all__)
    assert errors.__all__ == sorted(errors.__all__)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"(?:──|^ {4})\s?([A-Z]\w+)", errors.__doc__ or "", flags=re.MULTILINE)
    assert sorted(drawn) == [kind.__name__ for kind in ALL]


@pytest.mark.parametrize("kind", ALL)
def test_codes_and_exit_codes_are_usable(kind: type[HermeticError]) -> None:
    assert re.fullmatch("[a-z_]+", kind.code)
    assert 64 <= kind.exit_code <= 78 or kind.exit_code == 130
    assert "code" in vars(kind)
    assert kind.__doc__


def test_a_newer_peers_code_becomes_the_root() -> None:
    error = from_body(ErrorBody(code="from_the_future", message="words"))
    assert type(error) is HermeticError
    assert error.message == "words"


def test_a_timeout_is_one_for_python_too() -> None:
    assert issubclass(ResultTimeout, TimeoutError)
