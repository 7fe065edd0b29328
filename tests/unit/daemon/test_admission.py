"""What a task may ask of a model, at the edges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hermetic_daemon.admission import (
    MAX_TASK_BYTES,
    Room,
    check_app_name,
    check_job_id,
    complete,
)
from hermetic_daemon.catalog import Catalog, Model
from hermetic_daemon.config import DaemonSection, ModelSection
from hermetic_daemon.dispatcher import Dispatcher
from hermetic_daemon.events import PauseAsked, Submitted
from hermetic_wire.errors import InvalidParameter, QueueFull
from hermetic_wire.generation import Image, Load, Output, TextToImage, WorkerIdentity
from hermetic_wire.messages import MAX_APP_NAME_BYTES, JobSucceeded, from_daemon
from hermetic_wire.worker import Run, to_worker

from .conftest import MakeFolder


@pytest.fixture
def model(make_folder: MakeFolder) -> Model:
    return Catalog({"m": ModelSection(path=make_folder())}).find("m")


def task(**changes: Any) -> TextToImage:
    return TextToImage(**{"prompts": ("a",), **changes})


def test_what_is_left_open_is_filled_in(model: Model) -> None:
    filled = complete(task(prompts=("a", "b"), images_per_prompt=2, steps=3), model)
    assert isinstance(filled, TextToImage)
    assert (filled.width, filled.height, filled.steps, filled.guidance) == (64, 64, 3, 7.5)
    assert len(filled.seeds) == len(set(filled.seeds)) == 4


def test_nothing_is_changed_in_what_was_given(model: Model) -> None:
    given = task(width=8, height=8192, steps=1, guidance=0.0, seeds=(2**64 - 1,))
    assert complete(given, model) == given


def test_a_load_has_nothing_to_check(model: Model) -> None:
    assert complete(Load(), model) == Load()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": ()}, "prompts is empty"),
        ({"width": 65}, "width is 65.*multiple of 8, such as 64"),
        ({"height": 7}, "height is 7"),
        ({"width": 0}, "width is 0"),
        ({"width": -8}, "width is -8"),
        ({"width": 8200}, "width is 8200"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1001}, "steps is 1001"),
        ({"guidance": -0.1}, r"guidance is -0\.1"),
        ({"guidance": math.nan}, "guidance is nan"),
        ({"guidance": math.inf}, "guidance is inf"),
        ({"images_per_prompt": 0}, "images_per_prompt is 0"),
        ({"images_per_prompt": 65}, "images_per_prompt is 65"),
        ({"prompts": ("a",) * 33, "images_per_prompt": 2}, "66 images"),
        ({"negative_prompts": ("a", "b")}, "negative_prompts has 2"),
        ({"seeds": (1, 2)}, "seeds has 2 entries for 1"),
        ({"seeds": (2**64,)}, "seed 18446744073709551616"),
        ({"images_per_prompt": 2, "width": 8192, "height": 8192}, r"402,653,184 bytes"),
        ({"extra": {"no_such": 1}}, "no parameter 'no_such'.*clip_skip"),
        ({"extra": {"clip_skip": 1.5}}, "clip_skip is 1.5"),
        ({"extra": {"clip_skip": True}}, "clip_skip is True"),
        ({"extra": {"eta": "a"}}, "eta is 'a'"),
        ({"extra": {"eta": math.nan}}, "eta is nan"),
    ],
)
def test_what_the_model_cannot_take_is_named(
    model: Model, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidParameter, match=words):
        complete(task(**changes), model)


def test_a_task_is_so_small_that_its_end_can_be_told(model: Model) -> None:
    """The largest that is taken, with the most that comes of it."""
    few = task(prompts=("",) * 64, seeds=(2**64 - 1,) * 64, extra={"eta": 0.5})
    room = MAX_TASK_BYTES - len(msgspec.msgpack.encode(complete(few, model)))
    longest = task(prompts=("a" * (room // 64 - 4),) * 64, seeds=few.seeds, extra=few.extra)
    filled = complete(longest, model)
    end = JobSucceeded(
        job_id="i" * 64,
        task=filled,
        output=Output(
            images=(Image(width=8192, height=8192),) * 64,
            seeds=few.seeds,
            timings={f"a stage of the name {number}": 0.5 for number in range(100)},
            memory={f"memory {number}": 2**63 for number in range(100)},
        ),
        worker=WorkerIdentity(
            model="m" * 1000,
            architecture="a" * 1000,
            epoch=2**63,
            pid=2**31,
            device="cuda:0",
            versions={f"library {number}": "v" * 100 for number in range(100)},
        ),
    )
    from_daemon.encode(end)
    to_worker.encode(Run(job_id="i" * 64, task=filled, preview_seconds=0.5))
    with pytest.raises(InvalidParameter, match=f"at most {MAX_TASK_BYTES:,}"):
        complete(task(prompts=("a" * (room // 64 + 1),) * 64, seeds=few.seeds), model)


def test_the_bounds_are_those_of_the_protocols_page() -> None:
    page = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    assert f"| {MAX_TASK_BYTES:,} bytes |" in page
    assert f"at most {MAX_APP_NAME_BYTES} bytes of UTF-8" in page


def test_an_integer_is_a_number(model: Model) -> None:
    filled = complete(task(extra={"eta": 1}), model)
    assert isinstance(filled, TextToImage)
    assert filled.extra == {"eta": 1}


@pytest.mark.parametrize("job_id", ["", "a/b", "../x", "a b", "é", "a" * 65, "a\n"])
def test_a_job_id_can_name_a_file(job_id: str) -> None:
    with pytest.raises(InvalidParameter, match="job id"):
        check_job_id(job_id)
    check_job_id("Az09_-")


def test_an_apps_name_is_short_enough_to_be_listed() -> None:
    check_app_name("")
    check_app_name("é" * 64)
    with pytest.raises(InvalidParameter, match="130 bytes; at most 128"):
        check_app_name("é" * 65)


def test_jobs_that_are_being_written_down_take_room_once() -> None:
    dispatcher = Dispatcher()
    dispatcher.handle(PauseAsked(True), 0.0)
    room = Room(DaemonSection(queue_limit=4, app_queue_limit=2), dispatcher)

    def hand_over(share: str) -> None:
        room.free(share)
        dispatcher.handle(Submitted(f"job {dispatcher.waiting_count}", "m", app=share), 1.0)

    room.require("one")
    room.take("one")
    room.take("one")
    for _ in range(2):
        with pytest.raises(QueueFull, match=r"2 jobs of this app.*app_queue_limit"):
            room.require("one")
        room.require("another")
        hand_over("one")
    room.take("another")
    room.require("another")
    room.take("another")
    with pytest.raises(QueueFull, match=r"4 jobs wait already.*queue_limit"):
        room.require("a third")
    room.free("another")  # it could not be written down
    room.require("a third")
    room.require("another")
