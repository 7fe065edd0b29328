"""Weights where they lie: read-only, bounded by their file, and a damaged file is told in words.

What is accepted is held to the format's own library: nothing that it refuses may pass here.
"""

from __future__ import annotations

import json
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermetic_wire.errors import ModelInvalid
from hermetic_worker import weights

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def content(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file's bytes, the header padded as the format's library does it.

    `length` is a lie about the header's.
    """
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two tensors: 0, 1, 2, 3 as float32 and a 7 as int64."""
    path = tmp_path / "w.safetensors"
    header = {"a": entry(0, 16, [2, 2]), "b": entry(16, 24, [], "I64")}
    path.write_bytes(content(header, struct.pack("<4fq", 0, 1, 2, 3, 7)))
    return path


def maps_of(path: Path) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if line.endswith(str(path))]


def resident(path: Path) -> int:
    """KiB of the file that this process has in its page tables: proc(5), smaps."""
    kilobytes, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            kilobytes += int(line.split()[1])
    return kilobytes


# What is mapped.


def test_the_values_are_those_of_the_file(file: Path) -> None:
    found = weights.mapped(file)
    assert found["a"].tolist() == [[0, 1], [2, 3]]
    assert str(found["a"].dtype) == "torch.float32"
    assert (found["b"].item(), tuple(found["b"].shape)) == (7, ())


def test_no_descriptor_of_the_file_is_kept_for_a_fork_to_inherit(file: Path) -> None:
    held = weights.mapped(file)
    targets = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert held
    assert file not in targets


def test_the_pages_are_shared_and_read_only_and_go_with_the_last_tensor(file: Path) -> None:
    found = weights.mapped(file)
    (line,) = maps_of(file)
    assert line.split()[1] == "r--s"
    last = found["b"]
    del found
    assert maps_of(file)
    assert last.item() == 7
    del last
    assert not maps_of(file)


def test_a_refused_file_is_not_left_mapped(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content({"a": entry(0, 99, [2])}, b"12345678"))
    with pytest.raises(ModelInvalid):
        weights.mapped(path)
    assert not maps_of(path)


WRITE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from pathlib import Path
from hermetic_worker import weights
tensor = weights.mapped(Path(sys.argv[1]))["a"]
print("mapped", flush=True)
tensor[0, 0] = 99
print("written", flush=True)
"""


def test_a_write_to_a_weight_ends_the_writer_and_not_the_file(file: Path) -> None:
    before = file.read_bytes()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WRITE, str(file)],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "mapped\n"), done.stderr
    assert file.read_bytes() == before


@pytest.mark.parametrize("advice", [weights._MADV_POPULATE_READ, 9999], ids=["kernel", "old"])
def test_reading_ahead_has_every_page_in_memory(
    advice: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`old` is a kernel that does not know the advice."""
    monkeypatch.setattr(weights, "_MADV_POPULATE_READ", advice)
    size = 64 * 4096
    path = tmp_path / "w.safetensors"
    path.write_bytes(content({"a": entry(0, size, [size], "U8")}, bytes(size)))
    found = weights.mapped(path)
    assert weights.read_ahead(found.values()) == size
    assert resident(path) >= size // 1024


# What is damaged.

DAMAGED: dict[str, bytes] = {
    "an empty file": b"",
    "not even a length": b"1234567",
    "a length and no header": content({}, length=1),
    "a length past the end": content({"a": entry(0, 4, [1])}, b"1234", length=1 << 40),
    "a length of 2^64 - 1": content({}, length=(1 << 64) - 1),
    "a length inside the header": content({"a": entry(0, 4, [1])}, b"1234", length=9),
    "a header that is no JSON": struct.pack("<Q", 8) + b"{'a': 1}",
    "a header that is a list": content([1, 2]),
    "a header without end": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "an entry that is a word": content({"a": "F32"}),
    "an entry without a shape": content({"a": {"dtype": "F32", "data_offsets": [0, 4]}}, b"1234"),
    "a dtype of the future": content({"a": entry(0, 4, [1], "F4_NEW")}, b"1234"),
    "a dtype that is a list": content({"a": {**entry(0, 4, [1]), "dtype": []}}, b"1234"),
    "offsets past the end": content({"a": entry(0, 400, [100])}, b"1234"),
    "offsets that go back": content({"a": entry(4, 0, [1])}, b"1234"),
    "offsets below zero": content({"a": entry(-4, 0, [1])}, b"1234"),
    "three offsets": content({"a": {**entry(0, 4, [1]), "data_offsets": [0, 2, 4]}}, b"1234"),
    "an infinite offset": content(
        {"a": {**entry(0, 4, [1]), "data_offsets": [0, float("inf")]}}, b"1234"
    ),
    "sides that are fractions": content({"a": {**entry(0, 8, [1]), "shape": [2.5]}}, b"12345678"),
    "a shape that is a word": content({"a": {**entry(0, 8, [1]), "shape": "2"}}, b"12345678"),
    "fewer bytes than the shape has": content({"a": entry(0, 4, [2])}, b"1234"),
    "more bytes than the shape has": content({"a": entry(0, 8, [1])}, b"12345678"),
    "two negative sides": content({"a": entry(0, 8, [-1, -2])}, b"12345678"),
    "two tensors in one place": content(
        {"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, b"123456789012"
    ),
    "the same bytes twice": content({"a": entry(0, 8, [2]), "b": entry(0, 8, [2])}, b"12345678"),
    "a hole between two": content({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, b"123456789012"),
    "bytes that are nobody's": content({"a": entry(0, 4, [1])}, b"12345678"),
    "sides too large for any tensor": content({"a": entry(0, 0, [0, 1 << 70])}),
    "not aligned": content({"a": entry(0, 2, [2], "U8"), "b": entry(2, 6, [1])}, b"123456"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused_by_its_name(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(ModelInvalid) as refused:
        weights.mapped(path)
    assert str(path) in refused.value.message


@pytest.mark.parametrize("kept", [0, 4, 8, 20, 100, -1])
def test_a_file_cut_short_anywhere_is_refused(kept: int, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ModelInvalid):
        weights.mapped(file)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
NUMBER = st.integers(-2, 40) | st.sampled_from([1 << 31, 1 << 62, 1 << 63, 1 << 70])
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*weights._DTYPES, "F4", "C64", ""]),
        "shape": st.lists(NUMBER, max_size=4),
        "data_offsets": st.lists(NUMBER, min_size=2, max_size=2),
    }
)
HEADER = st.dictionaries(st.text(max_size=3), ENTRY | ANYTHING, max_size=3)


def reference(data: bytes) -> dict[str, bytes] | None:
    """What the format's own library finds; None where it refuses the file."""
    try:
        found = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        return {name: bytes(one["data"]) for name, one in found}
    except safetensors.SafetensorError:
        return None


def ours(data: bytes, path: Path) -> dict[str, bytes] | None:
    import torch

    path.write_bytes(data)
    try:
        found = weights.mapped(path)
    except ModelInvalid:
        return None
    return {
        name: tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in found.items()
    }


FUZZED = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZED
@given(data=st.binary(max_size=200))
def test_random_bytes_are_refused_and_crash_nothing(data: bytes, tmp_path: Path) -> None:
    found = ours(data, tmp_path / "w")
    assert found is None or found == reference(data)


@FUZZED
@given(header=ANYTHING | HEADER, data=st.binary(max_size=48))
def test_whatever_a_header_says_nothing_passes_that_the_library_refuses(
    header: Any, data: bytes, tmp_path: Path
) -> None:
    whole = content(header, data)
    found = ours(whole, tmp_path / "w")
    assert found is None or found == reference(whole)


@st.composite
def sound(draw: st.DrawFn) -> bytes:
    """A file without a fault."""
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}} if draw(st.booleans()) else {}
    shapes = draw(st.lists(st.lists(st.integers(0, 3), max_size=3), max_size=4))
    kinds = sorted((draw(st.sampled_from(sorted(sizes))) for _ in shapes), key=sizes.__getitem__)
    end = 0
    for number, (shape, kind) in enumerate(zip(shapes, reversed(kinds), strict=True)):
        count = sizes[kind]
        for side in shape:
            count *= side
        header[f"t{number}"] = entry(end, end + count, shape, kind)
        end += count
    return content(header, draw(st.binary(min_size=end, max_size=end)))


@FUZZED
@given(whole=sound())
def test_a_sound_file_is_what_the_library_says(whole: bytes, tmp_path: Path) -> None:
    found = ours(whole, tmp_path / "w")
    assert found is not None
    assert found == reference(whole)


# Which files.


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(content({}))


def index(folder: Path, name: str, *shards: str) -> None:
    (folder / name).write_text(json.dumps({"weight_map": dict(enumerate(shards))}))


def names_of(files: list[Path]) -> list[str]:
    return [file.name for file in files]


@pytest.mark.parametrize("stem", ["model", "diffusion_pytorch_model"])
def test_a_variant_is_preferred_where_it_is_asked_for_and_there(stem: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{stem}.safetensors")
    assert names_of(weights.component_files(tmp_path, stem, "fp16")) == [f"{stem}.safetensors"]
    touch(tmp_path, f"{stem}.fp16.safetensors")
    found = weights.component_files(tmp_path, stem, "fp16")
    assert names_of(found) == [f"{stem}.fp16.safetensors"]
    assert names_of(weights.component_files(tmp_path, stem, None)) == [f"{stem}.safetensors"]


def test_shards_come_once_each_in_the_order_of_their_index(tmp_path: Path) -> None:
    touch(tmp_path, "b", "a")
    index(tmp_path, "model.safetensors.index.json", "b", "a", "b")
    assert names_of(weights.component_files(tmp_path, "model", None)) == ["b", "a"]


def test_whole_and_sharded_weights_side_by_side_are_refused(tmp_path: Path) -> None:
    """diffusers takes the shards, transformers the whole file."""
    touch(tmp_path, "model.safetensors", "a")
    index(tmp_path, "model.safetensors.index.json", "a")
    with pytest.raises(ModelInvalid, match="remove one"):
        weights.component_files(tmp_path, "model", None)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelInvalid, match=r"no model\.safetensors"):
        weights.component_files(tmp_path, "model", "fp16")


@pytest.mark.parametrize("shard", ["../outside", "/etc/hostname", "missing", "", ".", "sub/inside"])
def test_a_shard_that_is_not_beside_its_index_is_refused(shard: str, tmp_path: Path) -> None:
    touch(tmp_path, "outside")
    folder = tmp_path / "unet"
    (folder / "sub").mkdir(parents=True)
    touch(folder / "sub", "inside")
    index(folder, "model.safetensors.index.json", shard)
    with pytest.raises(ModelInvalid, match="does not lie beside it"):
        weights.component_files(folder, "model", None)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1', "[" * 200_000, "\0"],
    ids=["empty", "list", "object", "no-map", "cut", "deep", "binary"],
)
def test_an_index_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelInvalid, match="no index of shards"):
        weights.component_files(tmp_path, "model", None)


def test_a_tensor_in_two_shards_is_refused(file: Path) -> None:
    with pytest.raises(ModelInvalid, match="holds a once more"):
        weights.tensors_of([file, file])
