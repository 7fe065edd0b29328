"""`python bench/_participant.py KIND SETTING`: an app without Hermetic, which holds one model.

    naive   `del pipe; gc.collect(); from_pretrained(...)`, as most apps do it
    tuned   both pipelines stand ready without weights; a switch maps files and assigns tensors
    bound   as tuned, but the tensors of both models stay assigned, and only their pages go
    fresh   one model and no other: who wants another ends this process and starts a new one

Standard input has one JSON line per visit, standard output answers with its seconds by stage.
"""

from __future__ import annotations

import time

BORN = time.monotonic()
"""The first instruction, before any other import: all processes share this clock."""

import ctypes  # noqa: E402
import gc  # noqa: E402
import json  # noqa: E402
import mmap  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator, Mapping  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Protocol, TextIO  # noqa: E402


class Laps(dict[str, float]):
    """Seconds by stage."""

    @contextmanager
    def lap(self, stage: str) -> Iterator[None]:
        """Add what is done inside to the stage."""
        began = time.perf_counter()
        yield
        self[stage] = self.get(stage, 0.0) + time.perf_counter() - began


class Loader(Protocol):
    """One way of changing models within a process."""

    def release(self) -> None:
        """Hold no model; nothing happens where none is held."""
        ...

    def fill(self, model: str, laps: Laps) -> None:
        """Hold this model, where none is held, ready for its first step."""
        ...


class Naive:
    """The pipeline is thrown away and made again."""

    def __init__(self, setting: Mapping[str, Any]) -> None:
        from hermetic_worker import libraries
        from hermetic_worker.folder import Folder

        libraries.bring_in()
        # diffusers imports a class when it is first asked for, which would be in the first load.
        for path in setting["folders"].values():
            libraries.pipeline_class(Folder.read(path).class_name)
        self._setting = setting
        self._pipe: Any = None

    def release(self) -> None:
        """What apps call unloading."""
        self._pipe = None
        gc.collect()

    def fill(self, model: str, laps: Laps) -> None:
        """By the library's own way."""
        import torch
        from diffusers import DiffusionPipeline

        from hermetic_worker import weights

        with laps.lap("load"):
            self._pipe = DiffusionPipeline.from_pretrained(
                self._setting["folders"][model],
                dtype=getattr(torch, self._setting["dtype"]),
                local_files_only=True,
                use_safetensors=True,
            )
        if self._setting["read_ahead"]:
            with laps.lap("read"):
                weights.read_ahead(_tensors(self._pipe))
        if self._setting["device"] != "cpu":
            with laps.lap("place"):
                self._pipe.to(self._setting["device"])
                torch.cuda.synchronize()


class Tuned:
    """Modules stay, weights come and go: what a worker does, without the process around it."""

    def __init__(self, setting: Mapping[str, Any]) -> None:
        from hermetic_worker import device, libraries, skeleton, staging
        from hermetic_worker.folder import Folder

        libraries.bring_in()
        self._setting = setting
        self._held: skeleton.Skeleton | None = None
        self.skeletons = {
            name: skeleton.build(Path(path), Folder.read(path).class_name, setting["dtype"])
            for name, path in setting["folders"].items()
        }
        for each in self.skeletons.values():
            each.release()
        self._device = device.parse(setting["device"]).claim()
        self._ring = None if self._device.kind == "cpu" else staging.Ring.make(self._device)
        gc.collect()
        gc.freeze()

    def release(self) -> None:
        """By reference counts alone: the modules have no cycles that hold a weight."""
        if self._held is not None:
            self._held.release()
            self._held = None

    def fill(self, model: str, laps: Laps) -> None:
        """The same steps, in the same order, as a forked worker's."""
        self._held = held = self.skeletons[model]
        with laps.lap("bind"):
            held.bind()
        if self._setting["read_ahead"]:
            with laps.lap("read"):
                held.read_ahead()
        if self._device.kind != "cpu":
            with laps.lap("copy"):
                held.move(self._device, self._ring)
        if held.converts:
            with laps.lap("bind"):
                held.convert()
        if self._device.kind != "cpu":
            with laps.lap("place"):
                held.pipe.to(self._device.torch_name)
                self._device.synchronize()


class Bound:
    """A switch in which nothing has to be done but to let go of memory: no other can be faster.

    Only on a CPU: a device has no page cache behind its memory.
    """

    def __init__(self, setting: Mapping[str, Any]) -> None:
        if setting["device"] != "cpu":
            raise SystemExit("in_process_bound is for --device cpu")
        self._tuned = Tuned(setting)
        self._read_ahead = setting["read_ahead"]
        for each in self._tuned.skeletons.values():
            each.bind()
        self._spans = {name: _spans(each) for name, each in self._tuned.skeletons.items()}
        self._held: str | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def release(self) -> None:
        """Its pages are the page cache's again."""
        for begin, length in self._spans.get(self._held or "", ()):
            if self._libc.madvise(begin, length, mmap.MADV_DONTNEED) != 0:
                raise OSError(ctypes.get_errno(), "madvise")
        self._held = None

    def fill(self, model: str, laps: Laps) -> None:
        """It stands there."""
        self._held = model
        if self._read_ahead:
            with laps.lap("read"):
                self._tuned.skeletons[model].read_ahead()


def _spans(held: Any) -> list[tuple[int, int]]:
    """Address and length of whole pages, neighbours joined: a call per file, not per tensor."""
    joined: list[tuple[int, int]] = []
    for tensor in sorted((slot.tensor for slot in held.slots()), key=lambda one: one.data_ptr()):
        begin = tensor.data_ptr() // mmap.PAGESIZE * mmap.PAGESIZE
        end = tensor.data_ptr() + tensor.nbytes
        if joined and begin <= sum(joined[-1]) + mmap.PAGESIZE:
            begin = joined.pop()[0]
        joined.append((begin, end - begin))
    return joined


def _tensors(pipe: Any) -> list[Any]:
    import torch

    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return [tensor for one in modules for tensor in one.state_dict().values()]


def serve(loader: Loader, requests: TextIO, answers: TextIO) -> None:
    """Visit after visit, until nobody asks any more. A visit to null holds no model."""
    tell(answers, {})
    for line in requests:
        model = json.loads(line)["visit"]
        laps = Laps()
        began = time.perf_counter()
        with laps.lap("release"):
            loader.release()
        if model is not None:
            loader.fill(model, laps)
        tell(answers, {"seconds": time.perf_counter() - began, "stages": laps})


def serve_once(setting: Mapping[str, Any], model: str, requests: TextIO, answers: TextIO) -> None:
    """From nothing to this model; then whoever started it ends it."""
    laps = Laps()
    with laps.lap("imports"):
        loader = Naive(setting)
    loader.fill(model, laps)
    tell(answers, {"born": BORN, "stages": laps})
    requests.read()


def tell(answers: TextIO, answer: Mapping[str, Any]) -> None:
    """One line."""
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def main() -> None:
    """Whatever a library prints must not be taken for an answer."""
    kind, told, *models = sys.argv[1:]
    setting = json.loads(told)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if kind == "fresh":
        serve_once(setting, models[0], sys.stdin, answers)
    else:
        kinds: dict[str, Callable[[Any], Loader]]
        kinds = {"naive": Naive, "tuned": Tuned, "bound": Bound}
        serve(kinds[kind](setting), sys.stdin, answers)


if __name__ == "__main__":
    main()
