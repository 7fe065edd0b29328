"""Devices by name, and the figures of the host's memory."""

from __future__ import annotations

import pytest

from hermetic_wire.errors import LoadFailed
from hermetic_worker import libraries
from hermetic_worker.device import Device, host_capacity, host_memory, parse
from support.tiny_models import byte_alphabet


@pytest.mark.parametrize(
    ("name", "device"),
    [("cpu", Device("cpu")), ("cuda", Device("cuda", 0)), ("cuda:1", Device("cuda", 1))],
)
def test_names(name: str, device: Device) -> None:
    assert parse(name) == device
    assert parse(str(device)) == device


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cpu:0", "CUDA", "cuda:1 "])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(LoadFailed, match="HERMETIC_DEVICE"):
        parse(name)


def test_half_precision_is_for_gpus() -> None:
    assert (Device("cpu").default_dtype, Device("cuda").default_dtype) == ("float32", "float16")


def test_a_device_that_is_not_there_is_refused() -> None:
    libraries.bring_in()
    with pytest.raises(LoadFailed, match=r"cuda:97 was asked for"):
        Device("cuda", 97).require()
    Device("cpu").require()


def test_the_host_has_memory() -> None:
    own = host_memory()
    free, total = host_capacity()
    assert 0 < own["resident"] <= own["peak"] < total
    assert 0 < free < total


def test_the_alphabet_has_every_byte() -> None:
    letters = byte_alphabet()
    assert len(letters) == len(set(letters)) == 256
