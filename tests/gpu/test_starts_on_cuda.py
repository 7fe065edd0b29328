"""Workers started as new interpreters, forked, and from a standby draw the same pixels."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermetic import Client
from hermetic.cli.own_daemon import own_daemon
from hermetic_wire.messages import WorkerRow
from support.processes import until

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
STANDBY_SECONDS = 120.0
"""For the template's imports and the standby's preparation."""
WAYS = {
    "exec": 'start_method = "exec"\nstandby = "off"',
    "fork": 'start_method = "fork"\nstandby = "off"',
    "standby": 'start_method = "fork"\nstandby = "on"',
}


def draw(client: Client, model: str) -> bytes:
    result = client.generate(
        "a red circle", model=model, seed=11, steps=2, guidance=7.5, width=64, height=64
    )
    return bytes(result.pixels[0])


def standby_of(client: Client) -> WorkerRow | None:
    return next((row for row in client.workers() if row.state == "standby"), None)


def drawn(way: str, folders: dict[str, Path], scratch: Path) -> list[bytes]:
    """Both models, one after the other, by workers that were started in that way."""
    config = scratch / f"{way}.toml"
    models = "".join(f'[models.{name}]\npath = "{path}"\n' for name, path in folders.items())
    config.write_text(f"[worker]\n{WAYS[way]}\n{models}")
    pixels = []
    with own_daemon(device="cuda", config=config) as daemon:
        for model in folders:
            waiting = await_start(daemon.client, way)
            pixels.append(draw(daemon.client, model))
            row = next(row for row in daemon.client.workers() if row.model == model)
            assert row.start_method == ("exec" if way == "exec" else "fork")
            assert waiting in (None, row.pid), "another worker than the standby took the model"
    return pixels


def await_start(client: Client, way: str) -> int | None:
    """Until workers are started in that way from now on; the pid of the standby, if it is that."""

    def serves() -> bool:
        template = client.status().template
        assert template is None or template.state != "refused", template
        return template is not None and template.state == "serving"

    if way != "exec":
        until(serves, STANDBY_SECONDS, "the template serves")
    if way != "standby":
        return None
    until(lambda: standby_of(client) is not None, STANDBY_SECONDS, "a standby waits")
    waiting = standby_of(client)
    assert waiting
    return waiting.pid


def test_the_pixels_do_not_tell_how_their_worker_was_started(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    reference = drawn("exec", folders, tmp_path)
    assert drawn("fork", folders, tmp_path) == reference
    assert drawn("standby", folders, tmp_path) == reference
