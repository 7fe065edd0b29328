"""What apps ask at an awkward moment or too much of, and what they are answered."""

from __future__ import annotations

import pytest

from hermetic import Client, InvalidParameter

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


def test_a_task_that_no_message_could_hold_is_refused_and_wedges_nothing(client: Client) -> None:
    """With its seeds filled in it would fit into none that goes to the worker."""
    prompts = ["a" * 262_000] * 4
    with pytest.raises(InvalidParameter, match=r"at most 983,040 are allowed"):
        client.submit(prompts, model="echo", n=16, width=8, height=8)
    assert client.generate("others go on", model="echo").images


def test_the_largest_task_is_done_like_any_other(client: Client) -> None:
    prompts = ["a" * 245_500] * 4
    made = client.generate(prompts, model="echo", n=16, width=8, height=8)
    assert len(made.images) == 64
