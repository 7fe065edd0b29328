"""Where things are, by environment and by default."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hermetic_wire import paths
from hermetic_wire.errors import InvalidConfiguration


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is set and no service is installed."""
    for name in (
        "HERMETIC_ENDPOINT",
        "HERMETIC_CONFIG",
        "HERMETIC_STATE_DIR",
        "STATE_DIRECTORY",
        "XDG_RUNTIME_DIR",
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/app")
    monkeypatch.setattr(paths, "_SERVICE_RUNTIME", tmp_path / "run")
    monkeypatch.setattr(paths, "_SERVICE_CONFIG", tmp_path / "hermetic.toml")


def test_a_users_own_places() -> None:
    assert paths.endpoint_path() == Path(f"/tmp/hermetic-{os.getuid()}/hermetic.sock")
    assert paths.state_directory() == Path("/home/app/.local/state/hermetic")
    assert paths.config_file() == Path("/home/app/.config/hermetic/hermetic.toml")


def test_xdg_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNTIME_DIR", "STATE_HOME", "CONFIG_HOME"):
        monkeypatch.setenv(f"XDG_{name}", f"/x/{name}")
    assert paths.endpoint_path() == Path("/x/RUNTIME_DIR/hermetic/hermetic.sock")
    assert paths.state_directory() == Path("/x/STATE_HOME/hermetic")
    assert paths.config_file() == Path("/x/CONFIG_HOME/hermetic/hermetic.toml")


def test_a_services_places_come_first_where_it_made_them(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "hermetic.sock").touch()
    (tmp_path / "hermetic.toml").touch()
    assert paths.endpoint_path() == tmp_path / "run" / "hermetic.sock"
    assert paths.config_file() == tmp_path / "hermetic.toml"


def test_the_environment_comes_first_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERMETIC_ENDPOINT", "ipc:///a/b.sock")
    monkeypatch.setenv("HERMETIC_CONFIG", "/a/c.toml")
    monkeypatch.setenv("STATE_DIRECTORY", "/of/systemd")
    assert paths.endpoint_path() == Path("/a/b.sock")
    assert paths.endpoint_path("/given.sock") == Path("/given.sock")
    assert paths.endpoint_path(Path("relative.sock")) == Path.cwd() / "relative.sock"
    assert paths.config_file() == Path("/a/c.toml")
    assert paths.state_directory() == Path("/of/systemd")
    monkeypatch.setenv("HERMETIC_STATE_DIR", "/mine")
    assert paths.state_directory() == Path("/mine")


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:5555", "inproc://x"])
def test_other_transports_are_refused(endpoint: str) -> None:
    with pytest.raises(InvalidConfiguration, match="ipc://"):
        paths.endpoint_path(endpoint)


def test_a_path_that_no_socket_can_have() -> None:
    longest = "/" + "x" * (paths.MAX_SOCKET_PATH - 1)
    assert paths.endpoint_path(longest) == Path(longest)
    with pytest.raises(InvalidConfiguration, match="108 bytes"):
        paths.endpoint_path(longest + "x")
    with pytest.raises(InvalidConfiguration, match="bytes"):
        paths.endpoint_path("/" + "ö" * 54)
