"""A process that has imported everything is still fit to be forked from: no cuInit."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(120)]

PROGRAM = """
import ctypes, os, sys
from hermetic_worker import libraries
libraries.bring_in()
for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
    libraries.pipeline_class(name)
import torch
count = ctypes.c_int()
answer = ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(count))
print("cuDeviceGetCount", answer)
child = os.fork()
if child == 0:
    fit = not torch.cuda._is_in_bad_fork() and torch.ones(8, device="cuda").sum().item() == 8
    os._exit(0 if fit else 9)
print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_after_all_imports_the_driver_is_untouched_and_a_fork_can_use_it() -> None:
    """`torch.cuda.is_initialized` does not tell: diffusers once called cuInit past it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.stdout.splitlines() == ["cuDeviceGetCount 3", "child 0"], done.stderr
