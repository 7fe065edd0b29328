"""`hermeticd`: reads the configuration, starts the service, turns signals into events."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hermetic_wire import paths
from hermetic_wire.errors import HermeticError

from . import config, events, systemd
from .service import Service
from .store import Store, set_aside
from .strays import become_subreaper, end_orphans

__all__ = ["main"]

logger = logging.getLogger(__name__)

LEAVING_SECONDS = 30.0
"""For workers to end and for the last results to be written, beside the running job's time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to end; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    try:
        if sys.platform != "linux":
            raise HermeticError(f"Hermetic runs on Linux only; this is {sys.platform}.")
        file = options.config or paths.config_file()
        settings = _with_options(config.load(file), options)
        os.umask(0o077)
        if options.set_store_aside:
            kept = set_aside(settings.state_dir)
            sys.stderr.write(f"hermeticd: the journal of jobs is kept in {kept}\n")
        become_subreaper()
        asyncio.run(_serve(settings, file, str(file) if file.exists() else None))
    except HermeticError as error:
        sys.stderr.write(f"hermeticd: error: {error.message}\n")
        return error.exit_code
    return 0


async def _serve(settings: config.Config, file: Path, found: str | None) -> None:
    store = Store.open(settings.state_dir)
    try:
        recovered = store.recover()
        await end_orphans(recovered.processes)
        service = Service(settings, found, store, recovered)
    except BaseException:
        store.close()
        raise
    asked = 0

    def end() -> None:
        """Once is a request, twice is impatience."""
        nonlocal asked
        asked += 1
        budget = settings.daemon.drain_seconds
        systemd.notify(f"EXTEND_TIMEOUT_USEC={int((budget + LEAVING_SECONDS) * 1e6)}")
        service.handle(events.EndAsked("stop" if asked == 1 else "kill", budget))

    def reload() -> None:
        """Only the models; what else the file says counts at the next start."""
        try:
            service.reload(config.load(file).models)
        except HermeticError as error:
            logger.error("the configuration stays as it was: %s", error.message)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(signal.SIGCHLD, service.strays.sweep)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    await service.run()


def _with_options(settings: config.Config, options: argparse.Namespace) -> config.Config:
    """The command line has the last word."""
    if options.endpoint:
        settings = msgspec.structs.replace(settings, endpoint=paths.endpoint_path(options.endpoint))
    if options.device:
        settings = msgspec.structs.replace(settings, device=options.device)
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hermeticd",
        description="Serves diffusion models to local apps, each model in a process of its own.",
        epilog="Example: hermeticd --device cuda:0 --log-level debug",
    )
    parser.add_argument("--endpoint", help="the socket to serve (default: see `hermetic doctor`)")
    parser.add_argument("--config", type=Path, help="the configuration file (TOML)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument(
        "--set-store-aside",
        action="store_true",
        help="move a journal of jobs that cannot be read out of the way, keep it, begin a new one",
    )
    parser.add_argument(
        "--log-level", default="info", choices=("debug", "info", "warning", "error")
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
