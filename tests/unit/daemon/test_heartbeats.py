"""How long a step may take: what was measured, with room, and never more than is configured."""

from __future__ import annotations

from hermetic_daemon.heartbeats import ENOUGH, FACTOR, FLOOR_SECONDS, Heartbeats
from hermetic_wire.generation import TextToImage

SMALL = TextToImage(prompts=("a",), width=512, height=512)
LARGE = TextToImage(prompts=("a", "b"), width=1024, height=1024)
LIMIT = 600.0


def taught(seconds: float) -> Heartbeats:
    heartbeats = Heartbeats(LIMIT)
    for _ in range(ENOUGH):
        heartbeats.learn("sdxl", SMALL, seconds)
    return heartbeats


def test_nothing_measured_is_no_reason_for_suspicion() -> None:
    heartbeats = Heartbeats(LIMIT)
    for _ in range(ENOUGH - 1):
        heartbeats.learn("sdxl", SMALL, 1.0)
    assert heartbeats.limit("sdxl", SMALL, within=True) == LIMIT
    assert taught(1.0).limit("another", SMALL, within=True) == LIMIT


def test_a_hung_step_is_found_long_before_the_configured_limit() -> None:
    assert taught(1.0).limit("sdxl", SMALL, within=True) == FACTOR


def test_the_first_step_compiles_and_the_last_decodes_and_neither_is_hurried() -> None:
    assert taught(1.0).limit("sdxl", SMALL, within=False) == LIMIT


def test_a_batch_of_larger_images_is_given_its_time() -> None:
    assert taught(1.0).limit("sdxl", LARGE, within=True) == 8 * FACTOR


def test_fast_steps_on_a_busy_machine_are_not_suspected_for_a_pause() -> None:
    assert taught(0.001).limit("sdxl", SMALL, within=True) == FLOOR_SECONDS


def test_a_slow_model_does_not_lift_the_configured_limit() -> None:
    assert taught(100.0).limit("sdxl", LARGE, within=True) == LIMIT


def test_one_slow_step_counts_more_than_many_fast_ones() -> None:
    heartbeats = taught(1.0)
    heartbeats.learn("sdxl", SMALL, 5.0)
    heartbeats.learn("sdxl", SMALL, 1.0)
    assert heartbeats.limit("sdxl", SMALL, within=True) == 5 * FACTOR
