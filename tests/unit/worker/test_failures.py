"""What pipelines raise, as apps are told of it."""

from __future__ import annotations

import pytest

from hermetic_wire.errors import GenerationFailed, InvalidParameter, LoadFailed, OutOfMemory
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
