"""Is this process fit to be forked from? Each check names the accident it prevents.

They raise Unclean. A template that is not clean is not used: it says why, and the daemon starts
new interpreters instead.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["Unclean", "one_thread", "only_descriptors", "probe", "untouched_device"]

_NOT_INITIALIZED = 3  # CUDA_ERROR_NOT_INITIALIZED, <cuda.h>
PROBE_SECONDS = 60
"""For a child's first parallel computation on a busy machine; a hanging one never ends."""


class Unclean(Exception):
    """Why nothing may be forked from this process, in words."""


def one_thread() -> None:
    """A second thread is not forked, but the locks that it holds are: the child waits for ever.

    Whoever computes in the template has such threads: OpenMP keeps those of the first
    parallel operation.
    """
    threads = os.listdir("/proc/self/task")
    if len(threads) != 1:
        names = sorted(_name_of(thread) for thread in threads)
        raise Unclean(
            f"the template has {len(threads)} threads ({', '.join(names)}): something has been "
            "computed in it, or a library has started one"
        )


def untouched_device() -> None:
    """Once the driver is initialised, no forked child can use CUDA.

    `torch.cuda.is_initialized` does not tell of it (a library may have called cuInit past torch),
    so the driver itself is asked, where there is one.
    """
    import torch

    if torch.cuda.is_initialized():
        raise Unclean("torch has initialised CUDA in the template")
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return
    count = ctypes.c_int()
    answer = int(driver.cuDeviceGetCount(ctypes.byref(count)))
    if answer != _NOT_INITIALIZED:
        raise Unclean(
            f"the CUDA driver is initialised in the template (cuDeviceGetCount says {answer}, not "
            f"{_NOT_INITIALIZED}); its children could not use a GPU"
        )


def only_descriptors(allowed: frozenset[int]) -> None:
    """Every child inherits every descriptor: a device, a socket, somebody's file."""
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
        if int(name) not in allowed:
            raise Unclean(f"the template holds descriptor {name}, {target}")


def probe() -> None:
    """Fork once and look: the child must be able to compute in parallel and to use CUDA."""
    child = os.fork()
    if child == 0:
        os._exit(_probed())
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        raise Unclean(f"a forked child has not finished a computation in {PROBE_SECONDS} s")
    if code != 0:
        raise Unclean(f"a forked child could not compute: it ended with {code}")


def _probed() -> int:
    """The child's exit code; the alarm ends one that hangs."""
    signal.alarm(PROBE_SECONDS)
    try:
        import torch

        if torch.cuda._is_in_bad_fork():
            sys.stderr.write("probe: CUDA cannot be used in a fork of this template\n")
            return 1
        numbers = torch.ones(1 << 17)
        torch.nn.functional.gelu(numbers).sum().item()
        (numbers.view(512, 256) @ numbers.view(256, 512)).sum().item()
    except Exception as error:  # noqa: BLE001  # whatever it is, the template is not used
        sys.stderr.write(f"probe: {error!r}\n")
        return 1
    return 0


def _name_of(thread: str) -> str:
    try:
        with open(f"/proc/self/task/{thread}/comm") as stream:
            return stream.read().strip()
    except OSError:
        return "one that has just ended"
