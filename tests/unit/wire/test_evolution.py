"""The rules that let an older and a newer peer talk."""

from __future__ import annotations

from typing import Any, get_args

import msgpack
import msgspec
import pytest

from hermetic_wire import worker
from hermetic_wire.messages import (
    JOB_UPDATES,
    FromApp,
    FromDaemon,
    Hello,
    JobUpdate,
    Welcome,
    from_app,
    from_daemon,
)

_UNIONS: list[Any] = [FromApp, FromDaemon, worker.FromWorker, worker.ToWorker]

REQUIRED = {
    "hello": {"seq"},
    "submit": {"seq", "job_id", "model", "task"},
    "follow": {"seq", "job_id"},
    "watch": {"seq"},
    "bye": {"seq"},
    "cancel": {"seq", "job_id"},
    "list_jobs": {"seq"},
    "list_models": {"seq"},
    "list_workers": {"seq"},
    "get_status": {"seq"},
    "unload": {"seq", "model"},
    "pause": {"seq"},
    "resume": {"seq"},
    "stop": {"seq"},
}
"""Of version 1's requests, for ever: whatever is added has a default, so old apps may omit it."""


def test_requests_of_the_first_version_stay_understood() -> None:
    now = {
        kind.__struct_config__.tag: {
            field.name for field in msgspec.structs.fields(kind) if field.required
        }
        for kind in get_args(FromApp)
    }
    assert {tag: now[tag] for tag in REQUIRED} == REQUIRED


def test_a_newer_peers_fields_are_ignored() -> None:
    newer = {"v": 1, "type": "hello", "seq": 1, "app": "a", "mood": {"good": [True]}}
    assert from_app.decode([msgpack.packb(newer)])[0] == Hello(seq=1, app="a")


def test_an_older_peer_may_leave_out_what_has_a_default() -> None:
    older = {"type": "hello", "seq": 1}
    assert from_app.decode([msgpack.packb(older)])[0] == Hello(seq=1)


def test_the_order_of_fields_means_nothing() -> None:
    fields = {"pid": 1, "version": "1", "seq": 1, "type": "welcome", "v": 1}
    assert from_daemon.decode([msgpack.packb(fields)])[0] == Welcome(seq=1, version="1", pid=1)


@pytest.mark.parametrize("union", _UNIONS)
def test_no_two_messages_share_a_tag(union: Any) -> None:
    tags = [kind.__struct_config__.tag for kind in get_args(union)]
    assert len(tags) == len(set(tags))
    assert all(kind.__struct_config__.tag_field == "type" for kind in get_args(union))


def test_the_job_updates_are_all_of_them() -> None:
    assert set(JOB_UPDATES) == set(get_args(JobUpdate))
