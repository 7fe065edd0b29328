"""Devices by name, and the figures of the host's memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hermetic_wire.errors import LoadFailed
from hermetic_worker import device as device_module
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


@pytest.fixture
def unclaimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker is born: nothing claimed, nothing said of visible devices."""
    monkeypatch.setattr(device_module, "_CLAIM", type(device_module._CLAIM)())
    # Set first, so that it is put back after the test even where it was not set before it.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


UUIDS = ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-GPU-8932f937/1/2")


@pytest.mark.usefixtures("unclaimed")
@pytest.mark.parametrize(
    ("visible", "name", "left"),
    [
        (None, "cuda", "0"),
        (None, "cuda:1", "1"),
        ("2,3", "cuda:1", "3"),
        (" 2 , 3 ", "cuda:1", "3"),
        (",".join(UUIDS), "cuda:0", UUIDS[0]),
        (",".join(UUIDS), "cuda:1", UUIDS[1]),
        ("0,-1,1", "cuda", "0"),
    ],
)
def test_a_claim_leaves_one_device_to_see(
    visible: str | None, name: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    claimed = parse(name).claim()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == left
    assert claimed.torch_name == "cuda:0", "for torch it is the only one"
    assert str(claimed) == str(parse(name)), "the daemon keeps its name for it"
    assert claimed == parse(name)


@pytest.mark.usefixtures("unclaimed")
@pytest.mark.parametrize(
    ("visible", "name"),
    [("", "cuda"), ("2,3", "cuda:2"), ("-1", "cuda"), ("0,-1,1", "cuda:1"), ("0,,1", "cuda:1")],
)
def test_a_device_that_is_not_visible_is_refused(
    visible: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(LoadFailed, match=f"{parse(name)} was asked for, but CUDA_VISIBLE_DEVICES"):
        parse(name).claim()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.usefixtures("unclaimed")
def test_a_second_claim_does_not_narrow_what_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby claims while it is prepared, and its pipeline again when it loads."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    parse("cuda:1").claim()
    again = parse("cuda:1").claim()
    assert (os.environ["CUDA_VISIBLE_DEVICES"], again.torch_name) == ("5", "cuda:0")
    with pytest.raises(LoadFailed, match="claimed cuda:1"):
        parse("cuda:0").claim()


@pytest.mark.usefixtures("unclaimed")
def test_a_claim_that_comes_too_late_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA reads the variable once: torch's cuda:0 would silently be another device."""
    libraries.bring_in()
    import torch

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(LoadFailed, match="open in this process already"):
        parse("cuda").claim()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.usefixtures("unclaimed")
def test_the_cpu_is_nobodys_to_claim() -> None:
    claimed = Device("cpu").claim()
    assert (str(claimed), claimed.torch_name) == ("cpu", "cpu")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.usefixtures("unclaimed")
def test_a_claimed_device_that_is_not_there_is_refused_with_what_was_narrowed() -> None:
    libraries.bring_in()
    with pytest.raises(LoadFailed, match=r"cuda:97 was asked for.*CUDA_VISIBLE_DEVICES=97"):
        Device("cuda", 97).claim().require()


@pytest.mark.usefixtures("unclaimed")
def test_a_claim_brings_no_torch_in() -> None:
    """The daemon hears Hello before the seconds that the import takes."""
    program = (
        "import sys; from hermetic_worker.device import parse; parse('cuda').claim();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
