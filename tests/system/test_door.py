"""What a badly brought up app can do to the daemon: get an error, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermetic import Client, InvalidParameter, UnknownModel
from hermetic_wire.codec import MAX_FRAMES, MAX_HEADER_BYTES, MAX_ITEMS, MAX_RAW_BYTES
from hermetic_wire.messages import Status
from support.daemon import RunningDaemon
from support.raw_app import RawApp

NAN = float("nan")
pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]


@pytest.fixture
def raw(daemon: RunningDaemon) -> Iterator[RawApp]:
    app = RawApp(daemon)
    yield app
    app.close()


def header(**fields: Any) -> bytes:
    packed: bytes = msgpack.packb({"v": 1, **fields})
    return packed


def submit(**changes: Any) -> bytes:
    task = {"task": "text_to_image", "prompts": ["a"], **changes}
    return header(type="submit", seq=5, job_id="j", model="echo", task=task)


@pytest.mark.parametrize(
    ("frames", "code", "seq"),
    [
        ((b"\xc1 never used by msgpack",), "malformed_message", None),
        ((b"",), "malformed_message", None),
        ((msgpack.packb([1, 2]),), "malformed_message", None),
        ((header(seq=5),), "malformed_message", 5),
        ((header(type="no_such_type", seq=5),), "malformed_message", 5),
        ((header(type="cancel", seq=5, job_id=17),), "malformed_message", 5),
        ((header(type="hello", seq=5, app={"a": "map"}),), "malformed_message", 5),
        ((submit(prompts="not a list"),), "malformed_message", 5),
        ((submit(steps="ten"),), "malformed_message", 5),
        ((msgpack.packb({"v": 99, "type": "hello", "seq": 5}),), "protocol_mismatch", 5),
        ((header(type="hello", seq=5, x="x" * MAX_HEADER_BYTES),), "message_too_large", None),
        ((header(type="hello", seq=5, x="x" * 300_000),), "message_too_large", None),
        ((header(type="hello", seq=5), *[b""] * MAX_FRAMES), "message_too_large", 5),
        ((submit(width=63.5),), "malformed_message", 5),
        ((submit(prompts=[]),), "invalid_parameter", 5),
        ((submit(steps=0),), "invalid_parameter", 5),
        ((submit(guidance=NAN),), "invalid_parameter", 5),
        ((submit(seeds=[1, 2]),), "invalid_parameter", 5),
        ((submit(seeds=[-1]),), "invalid_parameter", 5),
        ((submit(images_per_prompt=10_000),), "invalid_parameter", 5),
        ((submit(extra={"no_such": 1}),), "invalid_parameter", 5),
        ((submit(extra={"step_seconds": "fast"}),), "invalid_parameter", 5),
        ((header(type="hello", seq=5, app="n" * 129),), "invalid_parameter", 5),
        ((header(type="follow", seq=5, job_id="a", preview_seconds=0.0),), "invalid_parameter", 5),
        ((header(type="follow", seq=5, job_id="a", preview_seconds=NAN),), "invalid_parameter", 5),
        ((header(type="follow", seq=5, job_id="nobody's"),), "unknown_job", 5),
        ((header(type="cancel", seq=5, job_id="nobody's"),), "unknown_job", 5),
        ((header(type="unload", seq=5, model="nothing"),), "unknown_model", 5),
    ],
)
def test_nonsense_costs_its_sender_a_typed_error(
    raw: RawApp, client: Client, frames: tuple[bytes, ...], code: str, seq: int | None
) -> None:
    refused = raw.refusal(*frames)
    assert (refused.error.code, refused.seq) == (code, seq)
    assert refused.error.message.endswith((".", "?"))
    assert client.generate("others go on", model="echo").images


def test_an_oversize_frame_is_refused_in_words(raw: RawApp, client: Client) -> None:
    refused = raw.refusal(header(type="get_status", seq=5), bytes(MAX_RAW_BYTES + 1))
    assert refused.error.code == "message_too_large"
    assert client.status().state == "serving"


def test_a_frame_past_the_hard_stop_ends_the_connection_and_no_other(
    raw: RawApp, client: Client
) -> None:
    raw.say(header(type="get_status", seq=5), bytes(MAX_RAW_BYTES + (2 << 20)))
    assert client.status().state == "serving"


@pytest.mark.parametrize(
    ("levels", "padding"),
    [
        (200, MAX_ITEMS),  # a header that is not small is looked at closely
        (4000, 0),  # one that is small, and deeper than any parser goes
    ],
)
def test_a_header_nested_past_its_limit_is_refused(raw: RawApp, levels: int, padding: int) -> None:
    nested = b"\x91" * levels + b"\x01"
    fields = msgpack.packb({"type": "get_status", "seq": 5, "p": "a" * padding, "x": 0})
    refused = raw.refusal(fields[:-1] + nested)
    assert refused.error.code in ("message_too_large", "malformed_message")


def test_an_unknown_model_is_answered_with_the_closest_name(client: Client) -> None:
    with pytest.raises(UnknownModel, match="Did you mean 'echo'"):
        client.generate("a", model="ecco")


def test_a_width_that_is_no_multiple_of_8_is_refused_before_a_worker_is_touched(
    tiny_daemon: RunningDaemon,
) -> None:
    with tiny_daemon.client() as client:
        with pytest.raises(InvalidParameter, match=r"width is 65.*multiple of 8, such as 64"):
            client.generate("a", model="tiny-sd15", width=65)
        assert client.workers() == []


def test_a_newer_app_with_fields_unknown_here_is_served(raw: RawApp) -> None:
    raw.say(header(type="get_status", seq=9, invented_in="the year 2030", also=[1, {"a": 2}]))
    answer = raw.hear()
    assert isinstance(answer, Status)
    assert answer.seq == 9


frames = st.lists(st.binary(max_size=200), min_size=1, max_size=4)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
KINDS = ["hello", "submit", "follow", "cancel", "list_jobs", "list_models", "unload", "task"]
headers = st.dictionaries(
    st.sampled_from(["v", "type", "seq", "job_id", "model", "task", "app"]),
    st.sampled_from(KINDS) | plain,
).map(lambda fields: [msgpack.packb(fields)])


def test_arbitrary_frames_never_reach_anyone_else(daemon: RunningDaemon) -> None:
    """Every message gets its answer or a refusal, and after all of them the daemon serves."""
    app = RawApp(daemon)

    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(frames | headers)
    def throw(message: list[bytes]) -> None:
        app.say(*message)
        app.say(header(type="get_status", seq=4242))
        while not (isinstance(answer := app.hear(), Status) and answer.seq == 4242):
            pass

    try:
        throw()
    finally:
        app.close()
    with daemon.client() as client:
        assert client.generate("others go on", model="echo").images
    assert daemon.process.poll() is None
    assert "Traceback" not in daemon.log.read_text()
