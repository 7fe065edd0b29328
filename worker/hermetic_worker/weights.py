"""Weights where they lie: safetensors files mapped read-only and shared, each tensor a view of one.

The page cache is the host's store of weights: every process that maps a file has the same pages,
none can write to them. Nothing is copied, converted or computed here. The format is that of
https://github.com/huggingface/safetensors: eight bytes of length, a JSON header, the tensors.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from hermetic_wire.errors import ModelInvalid

__all__ = ["component_files", "mapped", "read_ahead", "tensors_of"]

MAX_HEADER_BYTES = 100_000_000
"""The limit of the format's own library."""
_MADV_POPULATE_READ = 22  # <linux/mman.h>, since Linux 5.14
_PAGE = mmap.PAGESIZE

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""The format's names and torch's."""


def component_files(folder: Path, stem: str, variant: str | None) -> list[Path]:
    """The files that `from_pretrained` would read for a component, shards in their index's order.

    `stem` is `model` for transformers and `diffusion_pytorch_model` for diffusers; files of the
    `variant` are preferred. Raises ModelInvalid where there are none, or where whole and sharded
    weights lie side by side, because the libraries disagree on which of them counts.
    """
    for mark in dict.fromkeys([f".{variant}" if variant else "", ""]):
        whole = folder / f"{stem}{mark}.safetensors"
        indices = {
            folder / f"{stem}.safetensors.index{mark}.json",
            folder / f"{stem}{mark}.safetensors.index.json",
        }
        found = sorted(index for index in indices if index.exists())
        if whole.exists() and not found:
            return [whole]
        if found and not whole.exists():
            return _shards(found[0])
        if found:
            raise ModelInvalid(f"{folder} has {whole.name} and {found[0].name}; remove one.")
    raise ModelInvalid(f"{folder} has no {stem}.safetensors and no index of shards.")


def mapped(file: Path) -> dict[str, Any]:
    """The file's tensors by name, each a view of its map. Raises ModelInvalid for a broken file.

    Writing to one ends the process by SIGSEGV: the pages are everybody's. The map lives as
    long as any of its tensors.
    """
    import torch

    buffer = _map(file)
    header, start = _header(file, buffer)
    room = len(buffer) - start
    places = {name: _place(file, name, entry, room) for name, entry in header.items()}
    _require_tiled(file, places.values(), room)
    whole = torch.frombuffer(buffer, dtype=torch.uint8)[start:]
    try:
        return {
            name: whole[one.begin : one.end].view(getattr(torch, one.dtype)).view(one.shape)
            for name, one in places.items()
        }
    except (RuntimeError, TypeError) as error:  # not aligned, or sides that no tensor can have
        raise ModelInvalid(f"{file} cannot be used where it lies: {error}") from error


def tensors_of(files: Iterable[Path]) -> dict[str, Any]:
    """The tensors of all shards. Raises ModelInvalid where two hold the same name."""
    found: dict[str, Any] = {}
    for file in files:
        shard = mapped(file)
        twice = found.keys() & shard.keys()
        if twice:
            raise ModelInvalid(f"{file} holds {min(twice)} once more than its shards may.")
        found |= shard
    return found


def read_ahead(tensors: Iterable[Any]) -> int:
    """Have the pages of all tensors in memory; returns their bytes.

    Only for views of maps. On a kernel without MADV_POPULATE_READ one byte of each page is read.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    total = 0
    for begin, end in _spans(tensors):
        total += end - begin
        first = begin // _PAGE * _PAGE
        if libc.madvise(first, end - first, _MADV_POPULATE_READ) != 0:
            for address in range(begin, end, _PAGE):
                ctypes.c_ubyte.from_address(address).value  # noqa: B018  # the read is the point
    return total


def _spans(tensors: Iterable[Any]) -> list[tuple[int, int]]:
    """Address ranges, neighbours joined: one call per file instead of one per tensor."""
    ranges = sorted((one.data_ptr(), one.data_ptr() + one.nbytes) for one in tensors if one.nbytes)
    joined: list[tuple[int, int]] = []
    for begin, end in ranges:
        if joined and begin - joined[-1][1] <= _PAGE:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined


def _map(file: Path) -> Any:
    """The file's bytes as a ctypes array over a shared read-only map.

    Not by Python's own mmap: it keeps a descriptor of the file, which every fork would inherit.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size < 8:
            raise ModelInvalid(f"{file} has {size} bytes, which is no safetensors file.")
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    finally:
        os.close(descriptor)
    if address == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        raise OSError(code, f"mmap: {os.strerror(code)}", str(file))
    buffer = (ctypes.c_char * size).from_address(address)
    weakref.finalize(buffer, libc.munmap, address, size).atexit = False
    return buffer


def _header(file: Path, buffer: Any) -> tuple[dict[str, Any], int]:
    """The entries by tensor name, and where the first tensor's bytes begin."""
    length = int.from_bytes(buffer[:8], "little")
    if length > min(MAX_HEADER_BYTES, len(buffer) - 8):
        raise ModelInvalid(
            f"{file} announces a header of {length:,} bytes in {len(buffer):,}: it is damaged."
        )
    try:
        header = json.loads(buffer[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"{file} has no readable header: {error}.") from error
    if not isinstance(header, dict):
        raise ModelInvalid(f"{file} has a header that is no JSON object.")
    header.pop("__metadata__", None)
    return header, 8 + length


class _Place(NamedTuple):
    """Where a tensor's bytes are within the data, and what they are."""

    begin: int
    end: int
    dtype: str
    shape: tuple[int, ...]


def _place(file: Path, name: str, entry: Any, room: int) -> _Place:
    """What the header says of a tensor; none of it is believed unchecked."""
    import torch

    try:
        dtype = _DTYPES[entry["dtype"]]
        shape = _sizes(entry["shape"])
        begin, end = _sizes(entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelInvalid(f"{file}: the entry of {name} is not understood: {error!r}.") from error
    size = math.prod(shape) * getattr(torch, dtype).itemsize
    if not begin <= end <= room or end - begin != size:
        raise ModelInvalid(
            f"{file}: {name} is {entry['dtype']} {shape}, {size:,} bytes, and lies at {begin:,} "
            f"to {end:,} of {room:,}: the file is damaged."
        )
    return _Place(begin, end, dtype, shape)


def _sizes(numbers: Any) -> tuple[int, ...]:
    """A list of whole numbers, none below zero. Raises ValueError; no other is rounded to one."""
    if not isinstance(numbers, list) or any(type(one) is not int or one < 0 for one in numbers):
        raise ValueError("sizes have to be whole numbers")
    return tuple(numbers)


def _require_tiled(file: Path, places: Iterable[_Place], room: int) -> None:
    """The format allows neither a hole nor a byte that belongs to two tensors."""
    reached = 0
    for begin, end, *_ in sorted(places):
        if begin != reached:
            raise ModelInvalid(
                f"{file} has a tensor at {begin:,} where the one before it ends at {reached:,}: "
                "the file is damaged."
            )
        reached = end
    if reached != room:
        raise ModelInvalid(
            f"{file} has {room:,} bytes of tensors, of which its header knows {reached:,}: it is "
            "damaged."
        )


def _shards(index: Path) -> list[Path]:
    """The files that an index of shards names. Never one outside its folder."""
    try:
        names = json.loads(index.read_text())["weight_map"].values()
        files = [index.parent / str(name) for name in dict.fromkeys(names)]
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ModelInvalid(f"{index} is no index of shards: {error!r}.") from error
    for file in files:
        if file.parent != index.parent or not file.exists():
            raise ModelInvalid(
                f"{index} names the shard {file.name}, which does not lie beside it."
            )
    return files
