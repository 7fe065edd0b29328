"""Each claim of the demo fails when what it claims is not so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hermetic.cli.demo.leak import Direction
from hermetic.cli.demo.proofs import checks, nothing_left
from hermetic.cli.demo.rounds import Round
from hermetic.cli.process_life import ProcessLife
from hermetic_wire.generation import TextToImage
from unit.client.cli.fake_client import identity, succeeded

LEAK = [
    Direction(first="sdxl", second="sd15", error="mat1 and mat2", works_after_clear=True),
    Direction(first="sd15", second="sdxl", error="pooled_prompt_embeds", works_after_clear=True),
]
SHADES = {"a": 10, "b": 20}
ABSENT = 2**22 + 1
"""A pid that no process has: above the kernel's largest, 2**22."""


def played(number: int, model: str) -> Round:
    pid = ABSENT + number
    task = TextToImage(prompts=("a ring", "a star"), seeds=(1, 2))
    worker = identity(model, epoch=number, pid=pid)
    return Round(
        number=number,
        model=model,
        result=succeeded(task, model, worker=worker, shade=SHADES[model]),
        life=ProcessLife(pid, number),
        former_gone=None if number == 1 else True,
        workers=1,
    )


def all_well() -> list[Round]:
    return [played(number, model) for number, model in enumerate("abab", 1)]


def failing(
    rounds: list[Round], leak: list[Direction] | None = None, log: str = "all is quiet"
) -> list[str]:
    return [one.claim for one in checks(leak or LEAK, rounds, log) if not one.holds]


def test_all_well() -> None:
    assert failing(all_well()) == []
    assert len(checks(LEAK, all_well(), "")) == 8


def test_a_picture_that_changed() -> None:
    rounds = all_well()
    task = TextToImage(prompts=("a ring", "a star"))
    other = succeeded(task, "a", worker=rounds[2].result.worker, shade=11)
    rounds[2] = replace(rounds[2], result=other)
    assert failing(rounds) == [
        "a draws bit-identical images before and after a switch away from it"
    ]


def test_two_models_that_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHADES, "b", SHADES["a"])
    (claim,) = failing(all_well())
    assert claim.startswith("the models are two")


def test_a_process_that_served_twice() -> None:
    rounds = all_well()
    rounds[3] = replace(rounds[3], life=rounds[1].life)
    assert failing(rounds) == ["every round ran in a process of its own"]


def test_a_process_that_was_never_seen() -> None:
    rounds = all_well()
    rounds[0] = replace(rounds[0], life=None)
    assert failing(rounds) == ["every round ran in a process of its own"]


@pytest.mark.parametrize("seen", [False, None])
def test_a_former_process_that_stays(seen: bool | None) -> None:
    rounds = all_well()
    rounds[2] = replace(rounds[2], former_gone=seen)
    (claim,) = failing(rounds)
    assert claim.startswith("at every switch the former process was gone")


def test_two_workers_at_once() -> None:
    rounds = all_well()
    rounds[1] = replace(rounds[1], workers=2)
    assert failing(rounds) == ["one model lived at a time"]


def test_the_leak_in_the_daemons_log() -> None:
    assert failing(all_well(), log="RuntimeError: mat1 and mat2 ...") == [
        "neither error text came from Hermetic"
    ]


@pytest.mark.parametrize(
    "leak",
    [
        LEAK[:1],
        [LEAK[0], Direction(first="a", second="b", error=None, works_after_clear=True)],
        [LEAK[0], Direction(first="a", second="b", error="no", works_after_clear=False)],
    ],
)
def test_a_leak_that_does_not_show(leak: list[Direction]) -> None:
    (claim,) = failing(all_well(), leak)
    assert claim.startswith("in one process the prompt cache breaks the next model")


def test_a_worker_that_outlives_the_daemon() -> None:
    rounds = all_well()
    assert nothing_left(rounds).holds
    mine = ProcessLife.of(1)
    assert mine is not None, "init always lives"
    assert not nothing_left([replace(rounds[0], life=mine)]).holds
