"""The socket's and the state directory, the configuration file, memory and disk."""

from __future__ import annotations

import os
import shutil
import stat
import tomllib
from pathlib import Path

from hermetic.cli.output import size
from hermetic_wire.errors import InvalidConfiguration
from hermetic_wire.paths import endpoint_path

from .finding import Finding

__all__ = ["configuration", "disk", "endpoint", "memory", "state"]

_LEAST_MEMORY = 2 << 30
"""Bytes: a worker with PyTorch and the embedded models takes about one GiB."""
_LEAST_DISK = 1 << 30
"""Bytes, for logs and results."""


def endpoint(given: str | None) -> Finding:
    """Whether the socket can be where it should be, and who else could put one there."""
    try:
        path = endpoint_path(given)
    except InvalidConfiguration as error:
        return Finding("endpoint", "fail", error.message, "Set HERMETIC_ENDPOINT to a short path.")
    directory = path.parent
    if not directory.exists():
        return _to_be_made(path)
    found = directory.stat()
    if not os.access(directory, os.R_OK | os.X_OK):
        return Finding(
            "endpoint",
            "fail",
            f"{directory} may not be entered by this user",
            f"Join the group that owns it (gid {found.st_gid}), or set HERMETIC_ENDPOINT.",
        )
    if found.st_uid not in (os.getuid(), 0):
        return Finding(
            "endpoint",
            "warn",
            f"{directory} belongs to uid {found.st_uid}, and so would the daemon there",
            "Set HERMETIC_ENDPOINT to a place of your own, unless you know that user.",
        )
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        return Finding(
            "endpoint",
            "fail",
            f"{directory} may be written by everybody: anyone could answer as the daemon",
            f"chmod 700 {directory}",
        )
    return Finding("endpoint", "ok", str(path))


def _to_be_made(path: Path) -> Finding:
    """The daemon makes the directory, if its nearest existing parent lets it."""
    parent = next(one for one in path.parents if one.exists())
    if os.access(parent, os.W_OK):
        return Finding("endpoint", "ok", f"{path}, made when the daemon starts")
    return Finding(
        "endpoint",
        "fail",
        f"{parent} does not let this user make {path.parent}",
        "Set XDG_RUNTIME_DIR or HERMETIC_ENDPOINT to a place of your own.",
    )


def configuration(file: Path) -> Finding:
    """Whether the file can be read as TOML; what it means is for the daemon to judge."""
    if not file.exists():
        return Finding("configuration", "ok", f"none at {file}: all defaults")
    try:
        tomllib.loads(file.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return Finding("configuration", "fail", f"{file}: {error}", f"Correct {file}.")
    return Finding("configuration", "ok", str(file))


def memory(meminfo: str) -> Finding:
    """Room for a worker, from the text of /proc/meminfo."""
    kibibytes = {line.partition(":")[0]: line.split()[1] for line in meminfo.splitlines()}
    available = int(kibibytes["MemAvailable"]) * 1024
    seen = f"{size(available)} available"
    if available < _LEAST_MEMORY:
        remedy = f"A worker with PyTorch needs about {size(_LEAST_MEMORY)}; end other programs."
        return Finding("memory", "warn", seen, remedy)
    return Finding("memory", "ok", seen)


def disk(state_directory: Path) -> Finding:
    """Room where the daemon keeps its state."""
    place = next(one for one in (state_directory, *state_directory.parents) if one.exists())
    free = shutil.disk_usage(place).free
    seen = f"{size(free)} free for {state_directory}"
    if free < _LEAST_DISK:
        return Finding("disk", "warn", seen, "Free some, or set HERMETIC_STATE_DIR elsewhere.")
    return Finding("disk", "ok", seen)


def state(state_directory: Path) -> Finding:
    """Whether a daemon of this user could write jobs down there."""
    place = next(one for one in (state_directory, *state_directory.parents) if one.exists())
    if os.access(place, os.W_OK | os.X_OK) and place.is_dir():
        made = "" if place == state_directory else ", made when the daemon starts"
        return Finding("state directory", "ok", f"{state_directory}{made}")
    return Finding(
        "state directory",
        "warn",
        f"{place} may not be written by this user",
        "A daemon of another user is not held up by that; for your own set HERMETIC_STATE_DIR.",
    )
