"""What has to be asked of others: the daemon, and fresh processes for worker and GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from typing import TypeAlias

from hermetic.cli.output import size
from hermetic.cli.session import Session
from hermetic.cli.store import state as store_state
from hermetic.cli.template import skeletons, state
from hermetic_wire.errors import DaemonUnreachable, HermeticError
from hermetic_wire.messages import StoreStatus, TemplateStatus

from .finding import Finding

__all__ = ["Ask", "ask_python", "daemon", "gpu", "store", "template", "worker"]

Ask: TypeAlias = Callable[[str], tuple[int, str]]
"""A program for a fresh interpreter, to its exit code and its last line."""

_BUDGET_S = 60.0
"""For one import of PyTorch on a slow disk."""
_PATIENCE_S = 2.0

_WORKER = "import hermetic_worker.__main__; print('it starts')"
_DEEP_WORKER = """\
import diffusers, torch, transformers
print(f'torch {torch.__version__}, diffusers {diffusers.__version__}, '
      f'transformers {transformers.__version__}')
"""
_CUDA = """\
import torch
if not torch.cuda.is_available():
    raise SystemExit(f'torch {torch.__version__} sees no CUDA device')
free, total = torch.cuda.mem_get_info()
print(f'{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, '
      f'torch {torch.__version__}')
"""
_REFUSED = (
    "Remove the cause, then: kill -HUP {pid}. Until then pictures are the same, switches slower. "
    'start_method = "exec" under [worker] does without a template.'
)
_WAITING = (
    "It comes back by itself. If it goes on dying, its last lines are in the daemon's log; "
    'start_method = "exec" under [worker] does without a template.'
)


def ask_python(program: str) -> tuple[int, str]:
    """Run a program in a fresh interpreter: this process imports nothing heavy, ever."""
    words = [sys.executable, "-c", program]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_BUDGET_S, check=False)
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {_BUDGET_S:.0f} s"
    lines = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return done.returncode, lines[-1] if lines else f"exit code {done.returncode}"


def daemon(session: Session) -> Iterator[Finding]:
    """Whether it answers, is of this version, has a template and models that can be used."""
    try:
        with session.client(_PATIENCE_S) as client:
            status, models = client.status(), client.models()
    except DaemonUnreachable as error:
        yield Finding("daemon", "warn", error.message, "hermetic serve")
        return
    except HermeticError as error:
        yield Finding("daemon", "fail", error.message, "hermetic stop && hermetic serve")
        return
    seen, mine = f"version {status.version}, pid {status.pid}", metadata.version("hermetic")
    if status.version == mine:
        yield Finding("daemon", "ok", seen)
    else:
        remedy = "Restart the daemon from this installation: hermetic stop && hermetic serve"
        yield Finding("daemon", "warn", f"{seen}, and this is {mine}", remedy)
    if status.store is not None:
        yield store(status.store)
    if status.template is not None:
        yield template(status.template, status.pid)
    usable = [row.name for row in models if row.problem is None]
    if usable:
        yield Finding("models", "ok", ", ".join(usable))
    for row in models:
        if row.problem is not None:
            yield Finding(f"model {row.name}", "warn", row.problem, f"hermetic show {row.name}")


def store(found: StoreStatus) -> Finding:
    """Whether jobs are written down; the daemon has checked the file when it started."""
    if found.state == "writing":
        return Finding("store", "ok", f"{store_state(found)}, found sound at the start")
    remedy = "Free the disk, or make it writable again: the daemon goes on by itself."
    return Finding("store", "fail", store_state(found), remedy)


def template(found: TemplateStatus, daemon_pid: int) -> Finding:
    """Whether workers are forked as fast as they can be; it is a matter of speed alone."""
    seen = state(found)
    match found.state:
        case "off" | "starting":
            return Finding("template", "ok", seen)
        case "serving":
            told = f", skeletons: {skeletons(found)}" if found.skeletons else ""
            memory = f"{size(found.private_bytes)} of its own memory"
            return Finding("template", "ok", f"{seen}, {memory}{told}")
        case "refused":
            return Finding("template", "warn", seen, _REFUSED.format(pid=daemon_pid))
        case "waiting":
            return Finding("template", "warn", seen, _WAITING)


def worker(ask: Ask, *, deep: bool) -> Finding:
    """Whether a worker's process can start; `deep` imports what it will import."""
    code, line = ask(_DEEP_WORKER if deep else _WORKER)
    if code == 0:
        return Finding("worker", "ok", line)
    return Finding("worker", "fail", line, "pip install 'hermetic[worker]'")


def gpu(devices: Sequence[str], ask: Ask, *, deep: bool) -> Finding:
    """Whether there is a GPU and PyTorch sees it; asked only where there is, or when `deep`."""
    if not devices and not deep:
        return Finding("gpu", "ok", "no /dev/nvidia*: workers run on the CPU")
    code, line = ask(_CUDA)
    if code == 0:
        return Finding("gpu", "ok", line)
    if not devices:
        return Finding("gpu", "ok", f"{line}; workers run on the CPU")
    return Finding(
        "gpu",
        "warn",
        f"{', '.join(devices)} exist, but {line}",
        "Check the driver (nvidia-smi) and install a CUDA build of PyTorch; until then: "
        "hermetic serve --device cpu",
    )
