"""The command line with a fake client behind it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result

from hermetic import Client
from hermetic.cli.program import program
from hermetic.cli.session import Session
from hermetic_wire.messages import ModelRow
from unit.client.cli.fake_client import FakeClient

Run = Callable[..., Result]


@pytest.fixture
def client() -> FakeClient:
    """A daemon with one usable model."""
    row = ModelRow(name="demo-sd15", architecture="sd15", source="embedded", size_bytes=2**24)
    return FakeClient(model_rows=[row])


@pytest.fixture
def run(client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `hermetic WORDS...` off a terminal, in an empty directory."""
    runner = CliRunner()
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Result:
        session = Session(open_client=lambda endpoint, timeout: cast("Client", client))
        return runner.invoke(program, words, obj=session)

    return run
