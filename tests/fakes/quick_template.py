"""A real process without torch in the place of the template. It misbehaves as its flags say.

The real protocol over the real socket, real forks, real pidfds; nothing is imported and nothing
outlined, so it serves after 0.1 s. `@FILE` among the arguments stands for those in that file, one
a line. Its workers are no workers: they write the epoch and the token that they were given to
their standard error and do what `--child` says.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from hermetic_wire.template import (
    CONTROL,
    Forked,
    ForkRequest,
    FromTemplate,
    Refused,
    Serving,
    from_template,
)
from hermetic_wire.template import setup as setups
from hermetic_worker import guard

_STDIN, _STDOUT, _STDERR = 0, 1, 2
DIED = 9
"""Its exit status where it was told to die."""


def main() -> None:
    """Serve until the daemon closes the socket, or until the flags say otherwise."""
    guard.die_with_parent()
    flags = _flags()
    with os.fdopen(_STDIN, "rb", closefd=False) as stream:
        told, _ = setups.decode([stream.read()])
    control = socket.socket(fileno=CONTROL)
    if flags.gate:
        _wait_at(flags.gate)
    _begin(flags, control, told.endpoint)
    for number in range(1, sys.maxsize):
        packet, descriptors, *_ = socket.recv_fds(control, 4096, 2)
        if not packet:
            return
        if flags.hang:
            _hang()
        _fork(flags, control, ForkRequest.decode(packet), descriptors)
        if number == flags.forks:
            _die("as told, after its last fork")


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(fromfile_prefix_chars="@", allow_abbrev=False)
    parser.add_argument("--gate", type=Path, help="wait until nobody holds a lock on this file")
    parser.add_argument("--refuse", metavar="REASON", help="say Refused and end")
    parser.add_argument("--mute", action="store_true", help="never become ready")
    parser.add_argument("--stillborn", action="store_true", help="die before it is ready")
    parser.add_argument("--garbage", type=int, default=0, help="so many packets of nonsense first")
    parser.add_argument("--forks", type=int, default=0, help="die after so many")
    parser.add_argument("--hang", action="store_true", help="at the first fork request")
    parser.add_argument("--untold", action="store_true", help="fork, then die before telling")
    parser.add_argument("--stranger", action="store_true", help="tell another epoch than asked")
    parser.add_argument("--bare", action="store_true", help="send no descriptor with Forked")
    parser.add_argument(
        "--child", default="live", help="exit=STATUS, signal=NUMBER, or live: until the pipe ends"
    )
    return parser.parse_args()


def _wait_at(gate: Path) -> None:
    with gate.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)


def _begin(flags: argparse.Namespace, control: socket.socket, endpoint: str) -> None:
    for _ in range(flags.garbage):
        control.send(b"\xc1 this is no message")
    if flags.garbage or flags.stillborn:
        _die("as told, before it was ready")
    if flags.refuse is not None:
        _say(control, Refused(reason=flags.refuse))
        sys.exit(1)
    if flags.mute:
        _hang()
    _say(control, Serving(skeletons={"endpoint": endpoint}, timings={"all": 0.0}, versions={}))


def _fork(
    flags: argparse.Namespace,
    control: socket.socket,
    request: ForkRequest,
    descriptors: list[int],
) -> None:
    """By a middleman whose end leaves the child to the daemon.

    As the real one it tells of a child that has a session of its own: the end of this group, which
    may come at any moment, would take along one that has not.
    """
    middleman = os.fork()
    if middleman == 0:
        settled, settling = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            os.close(settling)
            control.close()
            _be_child(flags.child, request, *descriptors)
        os.close(settling)
        os.read(settled, 1)
        if not flags.untold:
            epoch = request.epoch + 1000 if flags.stranger else request.epoch
            (packet,) = from_template.encode(Forked(epoch=epoch, pid=child))
            pidfds = [] if flags.bare else [os.pidfd_open(child)]
            socket.send_fds(control, [packet], pidfds)
        os._exit(0)
    os.waitpid(middleman, 0)
    for descriptor in descriptors:
        os.close(descriptor)
    if flags.untold:
        _die("as told, with a fork untold")


def _be_child(how: str, request: ForkRequest, stdin: int, stderr: int) -> NoReturn:
    os.dup2(stdin, _STDIN)
    os.dup2(stderr, _STDERR)
    os.close(stdin)
    os.close(stderr)
    os.write(_STDERR, f"{request.epoch} {request.token}\n".encode())
    verb, _, number = how.partition("=")
    match verb:
        case "exit":
            os._exit(int(number))
        case "signal":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), int(number))
        case _:
            while os.read(_STDIN, 4096):
                pass
    os._exit(0)


def _say(control: socket.socket, message: FromTemplate) -> None:
    (packet,) = from_template.encode(message)
    control.send(packet)


def _die(why: str) -> NoReturn:
    os.write(_STDERR, f"died {why}\n".encode())
    os._exit(DIED)


def _hang() -> NoReturn:
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
