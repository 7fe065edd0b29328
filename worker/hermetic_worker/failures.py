"""The one seam at which what a pipeline raised becomes an error of the wire.

Knows torch's errors by name and text, so that it never has to import torch. An error after which
the process cannot use its device any more is the worker's death, and told as that.
"""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress

from hermetic_wire.errors import (
    GenerationFailed,
    HermeticError,
    LoadFailed,
    OutOfMemory,
    WorkerDied,
)

__all__ = ["is_shortage", "of_job", "of_load"]

REPORT_LINES = 40
"""Of the traceback, its end: where it was raised is told last."""

_DEVICE_WORDS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "NVML_SUCCESS == ",
)
"""Of torch's own allocator, and of those that take memory past it. The last is the allocator's: it
asks NVML who has the memory that it lacks, and trips over the answer (pytorch/pytorch#112377)."""
_LOST_WORDS = (
    "an illegal memory access was encountered",
    "an illegal instruction was encountered",
    "unspecified launch failure",
    "the launch timed out and was terminated",
    "device-side assert triggered",
    "misaligned address",
    "invalid program counter",
    "operation not supported on global/shared address space",
    "hardware stack error",
    "tensor memory not completely freed",
    "uncorrectable ECC error encountered",
    "uncorrectable NVLink error detected",
    "Invalid access of peer GPU memory over nvlink or a hardware error",
    "CUDA error: context is destroyed",
    "CUDA error: unknown error",
    "CUDA driver error: unknown error",
    "GPU has fallen off the bus",
    "GPU is lost",
    "CUDA-capable device(s) is/are busy or unavailable",
    "no CUDA-capable device is detected",
)
"""Of errors that leave a process "in an inconsistent state" in which "any further CUDA work will
return the same error" (CUDA Runtime API, cudaError_t). Others, such as an invalid argument, are the
call's own."""
_LOST_STATUS = re.compile(
    r"CU(?:BLAS|DNN)_STATUS_(?:EXECUTION_FAILED|MAPPING_ERROR|INTERNAL_ERROR\b)"
)
"""Of cuBLAS and cuDNN when they meet one. With a word behind it, such as COMPILATION_FAILED, an
internal error is one of cuDNN alone."""
_CPU_ASKED = re.compile(r"(?:you tried to allocate|unable to mmap) (\d+) bytes")
_CUDA_ASKED = re.compile(r"Tried to allocate ([\d.]+ \w+)")
_CUDA_TOTAL = re.compile(r"total capacity of ([\d.]+ \w+)")
_CUDA_FREE = re.compile(r"of which ([\d.]+ \w+) is free")


def of_load(error: BaseException, model: str) -> HermeticError:
    """What to tell of a load that raised: the error itself where it is ours already."""
    return _translated(
        error, LoadFailed, f"The model {model!r} could not be loaded", "See the worker's log."
    )


def of_job(error: BaseException, model: str) -> HermeticError:
    """What to tell of a job that raised: the error itself where it is ours already."""
    return _translated(
        error,
        GenerationFailed,
        f"The pipeline of {model!r} raised in the middle of the job",
        "Its worker is replaced.",
    )


def is_shortage(error: BaseException) -> bool:
    """Whether memory was not enough, on the device or in the host."""
    return _shortage(error) is not None


def _translated(
    error: BaseException, kind: type[HermeticError], what: str, then: str
) -> HermeticError:
    report = _report(error)
    shortage = None if isinstance(error, HermeticError) else _shortage(error)
    if shortage is not None:
        return OutOfMemory(f"{what}: {shortage}", report=report)
    loss = _loss(error)
    if loss is not None:
        return WorkerDied(f"{what}: the worker lost its device: {loss}", report=report)
    if isinstance(error, HermeticError):
        return type(error)(error.message, retry_after=error.retry_after, report=report)
    found = "".join(traceback.format_exception_only(error)).strip()
    return kind(f"{what}: {found}. {then}", report=report)


def _report(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(lines[-REPORT_LINES:])


def _loss(error: BaseException) -> str | None:
    """What the driver said and what to do; None where the device is as good as before.

    Whatever was raised of a loss, or while it was dealt with, brings no device back.
    """
    for one in _chain(error):
        text = str(one)
        if isinstance(one, RuntimeError) and _tells_of_a_loss(text):
            return (
                f"{type(one).__name__}: {text.splitlines()[0]}. Its process cannot use it any "
                "more, so it is replaced. If that happens again, see what the driver has written "
                "to the kernel's log (dmesg)."
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised of, and so on; also of one that was raised of itself."""
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        yield one
        one = one.__cause__ or one.__context__


def _tells_of_a_loss(text: str) -> bool:
    return any(one in text for one in _LOST_WORDS) or _LOST_STATUS.search(text) is not None


def _shortage(error: BaseException) -> str | None:
    """What was asked, free and there, in words; None where memory was not the matter."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or any(one in text for one in _DEVICE_WORDS):
        return _device_shortage(text)
    asked = _CPU_ASKED.search(text)
    refused = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if asked is None and not refused and not isinstance(error, MemoryError):
        return None
    return _host_shortage(int(asked.group(1)) if asked else None)


def _device_shortage(text: str) -> str:
    free, total = _device_capacity()

    def named(pattern: re.Pattern[str], otherwise: str = "an unknown amount") -> str:
        found = pattern.search(text)
        return found.group(1) if found else otherwise

    return (
        f"the device's memory was not enough: {named(_CUDA_ASKED)} asked, "
        f"{named(_CUDA_FREE, free)} free of {named(_CUDA_TOTAL, total)} in total. "
        "Ask for a smaller size or fewer images at once."
    )


def _device_capacity() -> tuple[str, str]:
    """What the driver says is free and there, for an error that does not.

    Not every error leaves a device that can still be asked.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        with suppress(RuntimeError):
            free, total = torch.cuda.mem_get_info()
            return f"{free:,} bytes", f"{total:,} bytes"
    return "an unknown amount", "an unknown amount"


def _host_shortage(asked: int | None) -> str:
    from .device import host_capacity

    free, total = host_capacity()
    wanted = f"{asked:,} bytes" if asked is not None else "an unknown amount"
    return (
        f"the machine's memory was not enough: {wanted} asked, {free:,} bytes free of "
        f"{total:,} in total. Ask for a smaller size or fewer images at once."
    )
