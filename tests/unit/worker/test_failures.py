"""What pipelines raise, as apps are told of it."""

from __future__ import annotations

import errno
import sys
from types import SimpleNamespace

import pytest

from hermetic_wire.errors import (
    GenerationFailed,
    InvalidParameter,
    LoadFailed,
    ModelInvalid,
    OutOfMemory,
    WorkerDied,
)
from hermetic_worker import failures, libraries

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.68 GiB "
    "of which 1.25 GiB is free. Including non-PyTorch memory, this process has 22.00 GiB in use."
)


def raised(error: BaseException) -> BaseException:
    """The error with a traceback, as a pipeline's is."""
    try:
        raise error
    except type(error) as caught:
        return caught


def test_a_pipeline_that_raised() -> None:
    told = failures.of_job(raised(RuntimeError("no such luck")), "m")
    assert type(told) is GenerationFailed
    assert "RuntimeError: no such luck" in told.message
    assert told.report is not None
    assert "in raised" in told.report


def test_a_load_that_raised() -> None:
    told = failures.of_load(raised(OSError("disk")), "m")
    assert type(told) is LoadFailed
    assert "The model 'm' could not be loaded: OSError: disk" in told.message


def test_our_own_errors_stay_what_they_are() -> None:
    told = failures.of_job(raised(InvalidParameter("a width of 7")), "m")
    assert type(told) is InvalidParameter
    assert told.message == "a width of 7"
    assert told.report is not None


def test_device_memory_is_told_in_figures() -> None:
    told = failures.of_job(raised(RuntimeError(CUDA)), "m")
    assert type(told) is OutOfMemory
    assert "20.00 GiB asked, 1.25 GiB free of 23.68 GiB in total" in told.message


def test_device_memory_is_known_by_its_class() -> None:
    libraries.bring_in()
    import torch

    told = failures.of_load(raised(torch.OutOfMemoryError("in other words")), "m")
    assert type(told) is OutOfMemory
    assert "an unknown amount asked" in told.message


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":830',
    ],
)
def test_what_takes_device_memory_past_the_allocator_may_lack_it_too(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their errors have no figures, so the driver is asked."""
    cuda = SimpleNamespace(is_initialized=lambda: True, mem_get_info=lambda: (1 << 20, 1 << 34))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    told = failures.of_job(raised(RuntimeError(text)), "m")
    assert type(told) is OutOfMemory
    assert "1,048,576 bytes free of 17,179,869,184 bytes in total" in told.message


def test_a_device_that_cannot_be_asked_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory")

    cuda = SimpleNamespace(is_initialized=lambda: True, mem_get_info=broken)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    told = failures.of_job(raised(RuntimeError("CUDA error: out of memory")), "m")
    assert "an unknown amount free of an unknown amount in total" in told.message


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be",
        "CUDA error: unspecified launch failure",
        "CUDA error: device-side assert triggered",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_CUDART",
        "Triton Error [CUDA]: misaligned address",
        "CUDA driver error: unknown error",
    ],
)
def test_a_lost_device_is_the_workers_death_and_neither_the_jobs_nor_the_models_fault(
    text: str,
) -> None:
    for told in (
        failures.of_job(raised(RuntimeError(text)), "m"),
        failures.of_load(raised(RuntimeError(text)), "m"),
    ):
        assert type(told) is WorkerDied
        assert f"lost its device: RuntimeError: {text.splitlines()[0]}. Its process" in told.message
        assert told.report is not None


def test_a_lost_device_is_one_whatever_was_raised_of_it() -> None:
    """The smoke check takes all that a pipeline raises for the model's fault."""

    def lose() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    def blame_the_model() -> None:
        try:
            lose()
        except RuntimeError as error:
            raise ModelInvalid(f"its first step raised: {error}") from error

    def stumble_over_it() -> None:
        try:
            lose()
        finally:
            [].pop()

    for end in (blame_the_model, stumble_over_it):
        with pytest.raises((ModelInvalid, IndexError)) as caught:
            end()
        told = failures.of_load(caught.value, "m")
        assert type(told) is WorkerDied
        assert "RuntimeError: CUDA error: unspecified launch failure." in told.message


def test_memory_that_runs_out_while_an_error_is_dealt_with_is_a_shortage() -> None:
    """A library that lacks it for its quick way may say anything before the slow one is tried."""
    error = RuntimeError(CUDA)
    error.__context__ = RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")
    assert type(failures.of_job(raised(error), "m")) is OutOfMemory


def test_an_error_that_was_raised_of_itself_is_told() -> None:
    error = RuntimeError("no such luck")
    error.__cause__ = error
    assert type(failures.of_job(raised(error), "m")) is GenerationFailed


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "CUDA error: invalid argument\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side "
            "assertions."
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_COMPILATION_FAILED"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)"),
        ValueError("cannot draw 'a device-side assert triggered'"),
    ],
)
def test_an_error_that_leaves_the_device_as_it_was_is_the_jobs(error: Exception) -> None:
    assert type(failures.of_job(raised(error), "m")) is GenerationFailed


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("unable to mmap 1024 bytes from file <x>: Cannot allocate memory (12)"),
    ],
)
def test_a_file_that_cannot_be_mapped_for_want_of_memory(error: Exception) -> None:
    assert type(failures.of_load(raised(error), "m")) is OutOfMemory


def test_host_memory_is_told_in_figures() -> None:
    """Really asked for: the text is torch's own."""
    libraries.bring_in()
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert failures.is_shortage(caught.value)
    told = failures.of_job(caught.value, "m")
    assert type(told) is OutOfMemory
    assert "1,125,899,906,842,624 bytes asked" in told.message
    assert "bytes free of" in told.message


def test_pythons_own_shortage() -> None:
    assert type(failures.of_job(raised(MemoryError()), "m")) is OutOfMemory


def test_a_report_is_the_tracebacks_end() -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        (lambda: 1 / 0)()

    with pytest.raises(ZeroDivisionError) as caught:
        deep(100)
    report = failures.of_job(caught.value, "m").report
    assert report is not None
    assert len(report.splitlines()) <= failures.REPORT_LINES
    assert report.endswith("ZeroDivisionError: division by zero")
