"""The configuration: one TOML file, environment variables over it, defaults under it.

`HERMETIC_DEVICE`, `HERMETIC_ENDPOINT` and `HERMETIC_STATE_DIR` have names of their own; every other
setting follows `HERMETIC_<SECTION>__<KEY>`. Nothing needs to be configured for a first run.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from hermetic_wire import paths
from hermetic_wire.errors import InvalidConfiguration
from hermetic_wire.generation import Parameter

__all__ = ["Config", "DaemonSection", "ModelSection", "WorkerSection", "load"]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class DaemonSection(_Section, frozen=True, kw_only=True):
    """`[daemon]`"""

    queue_limit: int = 10_000
    """Jobs that may wait; one more is refused with `queue_full`."""
    app_queue_limit: int = 2_000
    """Jobs of one app that may wait."""
    max_wait_seconds: float = 60.0
    """A job that has been the first of its class for so long goes before all others."""
    keep_jobs: int = 1000
    """Ended jobs that can still be asked for."""
    keep_bytes: int = 1 << 30
    """Pixels of ended jobs kept on disk; the newest result always is."""
    keep_seconds: float = 7 * 86400.0
    """How long an ended job is kept, at most."""
    residency: Literal["exclusive"] | int = "exclusive"
    """One loaded model on the device, or up to so many where their measured memory fits."""
    keep_alive: float = 300.0
    """Seconds for which an idle model stays loaded; negative is for ever."""
    drain_seconds: float = 10.0
    """For the running job, when the daemon is told to stop; it goes on with it later, otherwise."""


class WorkerSection(_Section, frozen=True, kw_only=True):
    """`[worker]`; times in seconds."""

    start_method: Literal["fork", "exec"] = "fork"
    """`fork` from the pristine template, where there is one that is clean; or a new interpreter."""
    command: tuple[str, ...] = (sys.executable, "-m", "hermetic_worker")
    template_command: tuple[str, ...] = (sys.executable, "-m", "hermetic_worker.template")
    template_seconds: float = 120.0
    """From the start of the template to its readiness: imports, skeletons, checks."""
    template_forks: int = 1000
    """After so many workers another template takes over."""
    standby: Literal["auto", "on", "off"] = "auto"
    """A forked worker that waits with its device made ready; `auto` is on a GPU with room."""
    smoke: Literal["once", "always", "never"] = "once"
    """The trial step before Ready: `once` for files that have not changed since they passed it."""
    read_ahead: bool = False
    """Read all weights from the disk before Ready, so that no step has to wait for it."""
    hello_seconds: float = 30.0
    """From the start of the process to its Hello."""
    load_seconds: float = 180.0
    """Between two signs of progress while a model loads."""
    step_seconds: float = 180.0
    """Between two steps of a job, the first and the decoding of the last included."""
    cancel_seconds: float = 5.0
    """From a cancel to SIGTERM, should no step have noticed it."""
    quit_seconds: float = 2.0
    """From the polite message to SIGTERM when the daemon ends."""
    terminate_seconds: float = 2.0
    """From SIGTERM to SIGKILL."""
    release_seconds: float = 10.0
    """From a worker's end to its device memory being free again."""
    backoff_seconds: float = 1.0
    """From a worker's crash to the next start for its model; doubles with every further one."""
    backoff_limit_seconds: float = 300.0
    """The longest such pause."""
    jobs_per_worker: int = 0
    """After so many jobs a worker makes room for another of its model; 0 is no limit."""
    growth_bytes: int = 4 << 30
    """So does one whose resident memory has grown by so much since it was ready; 0 is no limit."""


class ModelSection(_Section, frozen=True, kw_only=True):
    """`[models.NAME]`"""

    path: Path | None = None
    """A diffusers folder."""
    architecture: Literal["echo"] | None = None
    """Only for models without files; a folder says itself what it is."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    defaults: dict[str, Parameter] = {}
    """Over those of the model's own manifest: `steps`, `guidance`, `width`, `height`."""
    options: dict[str, Parameter] = {}
    keep_alive: float | None = None
    """Instead of `[daemon] keep_alive`."""
    preload: bool = False
    """Load it when the daemon starts."""
    pin: bool = False
    """Never end it for being idle, end it last where several are loaded, and load it again when
    the device has nothing else to do."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of it, complete and checked."""

    endpoint: Path = msgspec.field(default_factory=paths.endpoint_path)
    state_dir: Path = msgspec.field(default_factory=paths.state_directory)
    device: str | None = None
    """`cpu`, `cuda` or `cuda:N`; None takes a GPU where there is one."""
    daemon: DaemonSection = DaemonSection()
    worker: WorkerSection = WorkerSection()
    models: dict[str, ModelSection] = {}

    @property
    def device_name(self) -> str:
        """The device that workers are given."""
        return self.device or ("cuda" if Path("/dev/nvidiactl").exists() else "cpu")


def load(file: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration from `file`, where it exists, and the environment.

    Raises InvalidConfiguration, which names the file or the variable and what was found there.
    """
    try:
        settings = tomllib.loads(file.read_text()) if file.exists() else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidConfiguration(f"{file} cannot be read as TOML: {error}.") from error
    _convert(settings, str(file))
    settings = _with_environment(settings, environment)
    return _convert(settings, f"{file} with the HERMETIC_ variables over it")


def _convert(settings: dict[str, Any], source: str) -> Config:
    try:
        return msgspec.convert(settings, Config, dec_hook=_decode, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidConfiguration(f"{source}: {error}.") from error


def _decode(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value).expanduser().absolute()
    raise NotImplementedError(kind)


def _with_environment(settings: dict[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    merged = {
        key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()
    }
    for name, key in (("HERMETIC_DEVICE", "device"), ("HERMETIC_STATE_DIR", "state_dir")):
        if environment.get(name):
            merged[key] = environment[name]
    if environment.get("HERMETIC_ENDPOINT"):
        merged["endpoint"] = str(paths.endpoint_path())
    for name, value in environment.items():
        section, separator, key = name.removeprefix("HERMETIC_").lower().partition("__")
        if name.startswith("HERMETIC_") and separator and section in ("daemon", "worker"):
            words = key in ("command", "template_command")
            merged.setdefault(section, {})[key] = value.split() if words else value
    return merged
