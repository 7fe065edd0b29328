"""A real template whose pipelines poison what they can reach, or that is unclean as it is told.

    python poisonous_template.py [--light] [MISDEED]

A job of the poisonous pipeline reports what it finds in its process, and then leaves as much
behind as it can. MISDEED is what the template itself does wrong, one of MISDEEDS. With `--light` it
imports torch alone, for tests of the template's own life.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from hermetic_wire.generation import Output, TextToImage
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker import libraries, purity, template
from hermetic_worker.__main__ import leave
from hermetic_worker.pipelines import PIPELINES
from hermetic_worker.pipelines.base import OUTLINED, Footprint, OnProgress, OnStep, Result
from hermetic_worker.standby import Standby

VARIABLE = "HERMETIC_TEST_POISON"
SEED = 4711
_STASH: list[bytes] = []


class Poisonous:
    """Serves any folder, which it does not open."""

    def outline(self, spec: ModelSpec, device: str) -> str:
        """Bring in the class that jobs will patch, as building a skeleton does."""
        import diffusers

        assert diffusers.UNet2DConditionModel
        return OUTLINED

    def load(
        self, assign: Assign, on_progress: OnProgress, standby: Standby | None = None
    ) -> Footprint:
        """Nothing to load either."""
        return Footprint()

    def run(self, task: TextToImage, on_step: OnStep) -> Result:
        """One frame: what was found before the poisoning, and the canary, as JSON."""
        found = _look()
        canary = secrets.token_bytes(16)
        _poison(canary)
        report = json.dumps({**found, "canary": canary.hex()}).encode()
        return Result(Output(), [report])


def _look() -> dict[str, Any]:
    import diffusers
    import numpy as np
    import torch

    return {
        "patched": diffusers.UNet2DConditionModel.forward.__name__ == "_patched",
        "variable": os.environ.get(VARIABLE),
        "stash": len(_STASH),
        "torch": torch.rand(1).item(),
        "numpy": float(np.random.random()),
        "random": random.random(),
    }


def _poison(canary: bytes) -> None:
    import diffusers
    import numpy as np
    import torch

    model: Any = diffusers.UNet2DConditionModel
    model.forward = _patched
    torch.manual_seed(SEED)
    np.random.seed(SEED)
    random.seed(SEED)
    os.environ[VARIABLE] = canary.hex()
    _STASH.extend(canary * 64 for _ in range(64))


def _patched(*_: object, **__: object) -> None:
    raise RuntimeError("poisoned")


# What a template itself may do wrong.


def _compute() -> None:
    import torch

    torch.nn.functional.gelu(torch.ones(1 << 20))


def _compute_unnoticed() -> None:
    """As if nobody counted the threads: what is left is to try it out."""
    _compute()
    purity.one_thread = lambda: None
    purity.PROBE_SECONDS = 2


def _start_thread() -> None:
    threading.Thread(target=threading.Event().wait, name="idle", daemon=True).start()


def _start_thread_later() -> None:
    """At SIGUSR1, which a test sends when it has been told that the template serves."""
    signal.signal(signal.SIGUSR1, lambda *_: _start_thread())


def _open_descriptor() -> None:
    os.open("/dev/zero", os.O_RDONLY)


def _touch_cuda() -> None:
    ctypes.CDLL("libcuda.so.1").cuInit(0)


def _linger() -> None:
    """Its workers stop before they have a session of their own, until a test wakes them."""
    setsid = os.setsid

    def stop_first() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        setsid()

    os.setsid = stop_first


MISDEEDS: dict[str, Callable[[], None]] = {
    "compute": _compute,
    "compute_unnoticed": _compute_unnoticed,
    "start_thread": _start_thread,
    "start_thread_later": _start_thread_later,
    "linger": _linger,
    "open_descriptor": _open_descriptor,
    "touch_cuda": _touch_cuda,
}


def _import_torch() -> None:
    """What the checks and the reseeding need, and no more."""
    os.environ.update(libraries.ENVIRONMENT)
    import torch  # noqa: F401


def main(arguments: list[str]) -> int:
    """The whole process; returns its exit code."""
    bring_in = libraries.bring_in
    if "--light" in arguments:
        bring_in, libraries.versions = _import_torch, dict
    misdeeds = [MISDEEDS[name] for name in arguments if not name.startswith("--")]

    def import_and_misbehave() -> None:
        bring_in()
        for misdeed in misdeeds:
            misdeed()

    libraries.bring_in = import_and_misbehave
    return template.main({**PIPELINES, "poisonous": Poisonous})


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
