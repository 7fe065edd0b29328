"""Terms of a job, and lengths of time as people write them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec.structs import fields

from hermetic import InvalidParameter
from hermetic._duration import seconds
from hermetic._terms import Terms, terms
from hermetic_wire.messages import Submit


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (300, 300.0),
        ("300", 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        (" 1d ", 86400.0),
        ("-1m", -60.0),
        ("-1", -1.0),
        (0, 0.0),
        ("inf", math.inf),
    ],
)
def test_lengths_of_time(given: Any, found: float) -> None:
    assert seconds("keep_alive", given) == found


@pytest.mark.parametrize("given", ["", "soon", "5 m", "5x", "m", "1h-30m", "nan", True, None, []])
def test_what_is_no_length_of_time(given: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"keep_alive is .*5m"):
        seconds("keep_alive", given)


@pytest.mark.parametrize(
    ("given", "found"),
    [(None, None), (0, 0.0), ("5m", 300.0), (-1, -1.0), ("-1m", -1.0), (math.inf, -1.0)],
)
def test_a_model_is_kept_for_a_time_or_for_ever(given: Any, found: float | None) -> None:
    assert terms(keep_alive=given).keep_alive == found


@pytest.mark.parametrize(
    "given",
    [
        {"priority": "urgent"},
        {"on_disconnect": "die"},
        {"expires_in": -1},
        {"expires_in": "inf"},
        {"preview_seconds": 0},
        {"preview_seconds": math.inf},
    ],
)
def test_terms_that_cannot_be(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=next(iter(given))):
        terms(**given)


def test_terms_left_open_are_those_of_the_wire() -> None:
    ours = {field.name: field.default for field in fields(Terms)}
    assert ours.items() <= {field.name: field.default for field in fields(Submit)}.items()
