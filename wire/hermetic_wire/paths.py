"""Where things are by default: the socket, the configuration, the state. Looks, never creates.

Order: the environment variable, then the service's place where a service has made it, then the
user's XDG directories.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InvalidConfiguration

__all__ = [
    "MAX_SOCKET_PATH",
    "config_file",
    "endpoint_path",
    "runtime_directory",
    "state_directory",
]

MAX_SOCKET_PATH = 107
"""Bytes in a Unix socket's path: sun_path has 108, one of them for the NUL (unix(7))."""

_SERVICE_RUNTIME = Path("/run/hermetic")
_SERVICE_CONFIG = Path("/etc/hermetic/hermetic.toml")


def runtime_directory() -> Path:
    """The directory of a user's own socket."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "hermetic" if base else Path(f"/tmp/hermetic-{os.getuid()}")


def endpoint_path(given: str | os.PathLike[str] | None = None) -> Path:
    """The daemon's socket: the one given, HERMETIC_ENDPOINT, a running service's, or the user's.

    An endpoint may be a path or `ipc://` and a path. Raises InvalidConfiguration for other
    schemes and for paths that no Unix socket can have.
    """
    endpoint = os.fspath(given) if given is not None else os.environ.get("HERMETIC_ENDPOINT")
    if endpoint:
        return _checked(endpoint)
    service = _SERVICE_RUNTIME / "hermetic.sock"
    return service if service.exists() else runtime_directory() / "hermetic.sock"


def state_directory() -> Path:
    """Where logs, results and the journal are kept."""
    given = os.environ.get("HERMETIC_STATE_DIR") or os.environ.get("STATE_DIRECTORY")
    if given:
        return Path(given)
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "hermetic"


def config_file() -> Path:
    """The configuration file, which need not exist."""
    given = os.environ.get("HERMETIC_CONFIG")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME")
    own = (Path(base) if base else Path.home() / ".config") / "hermetic" / "hermetic.toml"
    return own if own.exists() or not _SERVICE_CONFIG.exists() else _SERVICE_CONFIG


def _checked(endpoint: str) -> Path:
    scheme, separator, rest = endpoint.partition("://")
    if separator and scheme != "ipc":
        raise InvalidConfiguration(
            f"The endpoint is {endpoint!r}; only ipc:// and plain paths are supported."
        )
    path = Path(rest if separator else endpoint).absolute()
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise InvalidConfiguration(
            f"The endpoint {path} has {length} bytes; a Unix socket's path has at most "
            f"{MAX_SOCKET_PATH}. Set HERMETIC_ENDPOINT to a shorter one."
        )
    return path
