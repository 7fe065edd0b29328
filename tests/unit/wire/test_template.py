"""Between daemon and template: requests of one size, messages that decode or are refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermetic_wire.codec import MAX_HEADER_BYTES
from hermetic_wire.errors import MalformedMessage, MessageTooLarge
from hermetic_wire.template import (
    Forked,
    ForkRequest,
    FromTemplate,
    Refused,
    Serving,
    Setup,
    from_template,
)
from hermetic_wire.template import setup as setups
from hermetic_wire.worker import ModelSpec

tokens = st.text("0123456789abcdef", min_size=32, max_size=32)
epochs = st.integers(0, 2**64 - 1)
words = st.text(max_size=20)
by_name = st.dictionaries(words, words, max_size=3)
seconds = st.dictionaries(words, st.floats(0, 1e6), max_size=3)
messages: st.SearchStrategy[FromTemplate] = st.one_of(
    st.builds(Serving, skeletons=by_name, timings=seconds, versions=by_name),
    st.builds(Refused, reason=words),
    st.builds(Forked, epoch=epochs, pid=st.integers(1, 2**22)),
)
specs = st.builds(ModelSpec, name=words, architecture=words, path=words, dtype=st.none() | words)


@given(epoch=epochs, token=tokens)
def test_a_request_has_one_size_whatever_it_asks_for(epoch: int, token: str) -> None:
    packet = ForkRequest(epoch, token).encode()
    assert len(packet) == len(ForkRequest(1, "0" * 32).encode())
    assert ForkRequest.decode(packet) == ForkRequest(epoch, token)


@given(packet=st.binary(max_size=100))
def test_a_packet_that_is_no_request_is_refused_in_words(packet: bytes) -> None:
    with pytest.raises(MalformedMessage, match="bytes"):
        ForkRequest.decode(packet)


@pytest.mark.parametrize("change", [b"", b"a prompt"])
def test_a_request_with_a_byte_more_or_less_is_none(change: bytes) -> None:
    """A job's word, smuggled behind a request, would reach what the next worker is forked from."""
    packet = ForkRequest(1, "0" * 32).encode()
    with pytest.raises(MalformedMessage):
        ForkRequest.decode(packet + change if change else packet[:-1])


@given(filler=st.binary(min_size=44, max_size=44).filter(lambda found: found[:4] != b"fork"))
def test_a_packet_of_the_right_size_that_asks_for_something_else_is_refused(filler: bytes) -> None:
    assert len(filler) == len(ForkRequest(1, "0" * 32).encode())
    with pytest.raises(MalformedMessage):
        ForkRequest.decode(filler)


@given(epoch=epochs, rest=st.binary(min_size=32, max_size=32))
def test_a_token_of_any_bytes_is_text_and_nobodys(epoch: int, rest: bytes) -> None:
    packet = ForkRequest(epoch, "0" * 32).encode()[:-32] + rest
    assert len(ForkRequest.decode(packet).token) == 32


@given(message=messages)
def test_every_message_survives_the_way(message: FromTemplate) -> None:
    (packet,) = from_template.encode(message)
    assert from_template.decode([packet]) == (message, [])


@given(models=st.lists(specs, max_size=3).map(tuple), device=words, endpoint=words)
def test_a_set_up_survives_the_way(
    models: tuple[ModelSpec, ...], device: str, endpoint: str
) -> None:
    told = Setup(models=models, device=device, endpoint=endpoint)
    (content,) = setups.encode(told)
    assert setups.decode([content]) == (told, [])


@given(packet=st.binary(max_size=200))
@pytest.mark.parametrize("direction", [from_template, setups])
def test_arbitrary_bytes_are_refused_in_words(direction: Any, packet: bytes) -> None:
    with contextlib.suppress(MalformedMessage, MessageTooLarge):
        direction.decode([packet])


def test_a_newer_template_may_say_more_and_an_unknown_word_is_refused() -> None:
    more = {"type": "forked", "epoch": 1, "pid": 2, "since": 3.0}
    assert from_template.convert(more) == Forked(epoch=1, pid=2)
    with pytest.raises(MalformedMessage, match="dreaming"):
        from_template.convert({"type": "dreaming"})


def test_a_reason_without_end_is_not_sent() -> None:
    with pytest.raises(MessageTooLarge):
        from_template.encode(Refused(reason="x" * (MAX_HEADER_BYTES + 1)))
