"""`python -m hermetic_worker.template`: the pristine process that workers are forked from.

It imports the libraries, outlines the catalog's models, checks itself and then does nothing but
fork. It has one thread, one socket, no device and no job. What it is told per worker has a fixed
size: an epoch and a token.

    template  forks a spare, waits for its end, checks itself, forks the next
    spare     waits for one request, forks the worker, hands its pidfd to the daemon, ends
    worker    is adopted by the daemon when the spare ends; lives `loop.live`

So a worker is the daemon's own child, a request costs one fork, not two, and what a worker was
forked from has never received a byte of any request but its own.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

from hermetic_wire.errors import HermeticError, MalformedMessage
from hermetic_wire.template import (
    CONTROL,
    Forked,
    ForkRequest,
    FromTemplate,
    Refused,
    Serving,
    Setup,
    from_template,
)
from hermetic_wire.template import setup as setups

from . import guard, libraries, loop, pages, purity
from .__main__ import leave
from .outlines import Outlines
from .pipelines import PIPELINES, Factory
from .titles import take_title

__all__ = ["main"]

log = logging.getLogger(__name__)

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_DESCRIPTORS = frozenset({_STDIN, _STDOUT, _STDERR, CONTROL})
_SERVED, _OVER, _FAILED = 0, 1, 2
"""How a spare ends: it forked a worker; the daemon has closed the socket; it could not, and has
told the daemon why."""
MAX_PACKET = 4096


def main(pipelines: Mapping[str, Factory] = PIPELINES) -> int:
    """The whole process; returns its exit code."""
    guard.die_with_parent()
    take_title("hermetic-templ")
    os.dup2(_STDERR, _STDOUT)  # whatever a library prints is a log
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",  # its workers' logs look like it too
    )
    control = socket.socket(fileno=CONTROL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon to understand
    try:
        template = Template(control, _read_setup(), Outlines(pipelines))
        template.prepare()
        return template.serve()
    except (purity.Unclean, HermeticError, ImportError, OSError) as error:
        log.error("This template is not used: %s.", error)
        with suppress(OSError):  # the daemon may be gone
            _say(control, Refused(reason=str(error)))
        return 1


@dataclass(frozen=True)
class _Newborn:
    """What a worker takes along from its fork."""

    request: ForkRequest
    stdin: int
    stderr: int
    settled: int
    """A pipe's end that the spare waits to see closed."""
    spare: int
    """The process it was forked from."""
    born: float


class Template:
    """The process behind `main`."""

    def __init__(self, control: socket.socket, setup: Setup, outlines: Outlines) -> None:
        self._control = control
        self._setup = setup
        self._outlines = outlines
        self._daemon = os.getppid()

    def prepare(self) -> None:
        """Import, outline, check, and tell the daemon. Raises Unclean."""
        began = time.monotonic()
        libraries.bring_in()
        imported = time.monotonic()
        skeletons = self._outlines.build(self._setup.models, self._setup.device)
        built = time.monotonic()
        sys.stdout.flush()  # or every child would write it once more
        gc.collect()
        gc.freeze()  # a child's collector would visit, and so copy, every page
        gc.disable()
        pages.collapse()
        purity.only_descriptors(_DESCRIPTORS)
        purity.untouched_device()
        purity.one_thread()
        purity.probe()
        timings = {
            "imports": imported - began,
            "skeletons": built - imported,
            "checks": time.monotonic() - built,
        }
        log.info("ready after %.2f s: %s", sum(timings.values()), skeletons)
        _say(
            self._control,
            Serving(skeletons=skeletons, timings=timings, versions=libraries.versions()),
        )

    def serve(self) -> int:
        """Fork on request until the daemon closes the socket; returns the exit code.

        Raises Unclean.
        """
        while True:
            purity.one_thread()
            spare = os.fork()
            if spare == 0:
                self._be_spare()
            _, status = os.waitpid(spare, 0)
            code = os.waitstatus_to_exitcode(status)
            if code == _OVER:
                return 0
            if code == _FAILED:
                return 1
            if code != _SERVED:
                raise purity.Unclean(f"the process that should have forked ended with {code}")

    def _be_spare(self) -> NoReturn:
        """One request, one worker."""
        code = _FAILED
        try:
            guard.die_with_parent()
            take_title("hermetic-spare")
            code = self._serve_once()
        except (OSError, MalformedMessage, purity.Unclean) as error:
            log.error("No worker was forked: %s.", error)
            with suppress(OSError):  # the daemon may be gone
                _say(self._control, Refused(reason=f"no worker was forked: {error}"))
        os._exit(code)

    def _serve_once(self) -> int:
        packet, descriptors, *_ = socket.recv_fds(self._control, MAX_PACKET, 2)
        if not packet:
            return _OVER
        request = ForkRequest.decode(packet)
        if len(descriptors) != 2:
            raise MalformedMessage(f"a request came with {len(descriptors)} descriptors, not 2")
        purity.one_thread()
        spare = os.getpid()
        watched, settled = os.pipe()
        worker = os.fork()
        if worker == 0:
            stdin, stderr = descriptors
            newborn = _Newborn(request, stdin, stderr, settled, spare, time.monotonic())
            os.close(watched)
            self._be_worker(newborn)
        os.close(settled)
        # Until the worker has a session of its own, whoever kills the template's process group
        # kills it too: only then may it be heard of.
        os.read(watched, 1)
        pidfd = os.pidfd_open(worker)
        told = from_template.encode(Forked(epoch=request.epoch, pid=worker))
        socket.send_fds(self._control, told, [pidfd])
        return _SERVED

    def _be_worker(self, newborn: _Newborn) -> NoReturn:
        code = 1
        try:
            self._settle_in(newborn)
            birth = loop.Birth(
                endpoint=self._setup.endpoint,
                epoch=newborn.request.epoch,
                token=newborn.request.token,
                parent_pipe=_STDIN,
                born=newborn.born,
            )
            code = loop.live(birth, self._outlines)
        except BaseException:  # whatever it is: it must never return into the spare's life
            log.exception("The worker ended by an exception.")
        leave(code)

    def _settle_in(self, newborn: _Newborn) -> None:
        """Become a process like any other: own session, own streams, own randomness."""
        os.setsid()
        os.close(newborn.settled)
        take_title("hermetic-worker")
        self._control.close()
        os.dup2(newborn.stdin, _STDIN)
        os.dup2(newborn.stderr, _STDOUT)
        os.dup2(newborn.stderr, _STDERR)
        os.close(newborn.stdin)
        os.close(newborn.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _reseed()
        gc.enable()
        self._be_adopted(newborn.spare)

    def _be_adopted(self, spare: int) -> None:
        """Wait until the spare has ended and the daemon is the parent; then die with it.

        The kernel's parent-death signal is about whoever is the parent when it is asked for.
        """
        while os.getppid() == spare:
            os.sched_yield()
        if os.getppid() != self._daemon:
            guard.kill_own_group()
        guard.die_with_parent()


def _reseed() -> None:
    """Two workers of one template would draw the same numbers. Jobs bring generators of their own;
    this is for what does not ask for one."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()
    torch.default_generator.seed()  # a GPU's generators do not exist yet


def _read_setup() -> Setup:
    """From standard input, to its end; afterwards that is /dev/null."""
    with os.fdopen(_STDIN, "rb", closefd=False) as stream:
        found, _ = setups.decode([stream.read()])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STDIN)
    os.close(nothing)
    return found


def _say(control: socket.socket, message: FromTemplate) -> None:
    (packet,) = from_template.encode(message)
    control.sendall(packet)


if __name__ == "__main__":
    leave(main())
