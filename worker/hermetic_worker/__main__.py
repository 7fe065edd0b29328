"""`python -m hermetic_worker`: the start of a worker as a new interpreter.

Imports neither torch nor diffusers nor numpy: the daemon hears Hello first.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NoReturn

from . import guard, loop
from .outlines import Outlines
from .pipelines import PIPELINES, Factory
from .titles import take_title

__all__ = ["leave", "main"]

_STDIN, _STDOUT, _STDERR = 0, 1, 2

_ABOUT = """\
One model in one process. The Hermetic daemon starts this program for every model and kills it
at every switch; there is no use in starting it by hand. To draw something, ask the daemon:

    hermetic generate "a red circle on a white background" -m demo-sd15 -o circle.png
"""
_BIRTH = """\
standard input is a pipe from the daemon: its first line is the worker's token, and its end
means that the daemon is gone, upon which the worker kills its own process group.
Logs go to standard error; standard output is not used.
"""


def main(argv: Sequence[str] | None = None, pipelines: Mapping[str, Factory] = PIPELINES) -> int:
    """The whole process; returns its exit code (see `loop.End`)."""
    born = time.monotonic()
    guard.die_with_parent()
    take_title("hermetic-worker")
    parser = _parser()
    arguments = parser.parse_args(argv)
    os.dup2(_STDERR, _STDOUT)  # whatever a library prints is a log
    if os.isatty(_STDIN):
        parser.error("standard input is a terminal, not a pipe from the daemon; see --help")
    try:
        token = guard.read_token(_STDIN)
    except EOFError as error:
        parser.error(f"{error}; see --help")
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"worker {arguments.epoch}: %(levelname)s %(name)s: %(message)s",
    )
    birth = loop.Birth(
        endpoint=arguments.endpoint,
        epoch=arguments.epoch,
        token=token,
        parent_pipe=_STDIN,
        born=born,
    )
    return loop.live(birth, Outlines(pipelines))


def leave(code: int) -> NoReturn:
    """End the process at once, its logs written.

    The interpreter's own teardown takes up to seconds with torch in it, and saves nothing here.
    """
    logging.shutdown()
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hermetic_worker",
        description=_ABOUT,
        epilog=_BIRTH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--endpoint",
        required=True,
        metavar="ipc:///PATH",
        help="the daemon's socket for its workers",
    )
    parser.add_argument(
        "--epoch", required=True, type=int, metavar="N", help="the serial number of this life"
    )
    return parser


if __name__ == "__main__":
    leave(main())
