"""The benchmark: its tour, its statistics, what it counts and what it prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermetic import Result
from hermetic.cli.bench.figures import Samples, p95, tour
from hermetic.cli.bench.machine import available_memory, machine
from hermetic_wire.generation import Image, Load, Output, TextToImage, WorkerIdentity
from hermetic_wire.messages import JobSucceeded
from unit.client.cli.conftest import Run
from unit.client.cli.fake_client import FakeClient


@pytest.mark.parametrize("count", range(6))
def test_a_tour_makes_every_switch_once_and_no_other(count: int) -> None:
    models = list("abcdef"[:count])
    pairs = tour(models)
    assert sorted(pairs) == sorted(permutations(models, 2))
    assert all(one[1] == other[0] for one, other in pairwise(pairs))
    if pairs:
        assert pairs[0][0] == pairs[-1][1] == models[0]


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_p95_is_one_of_the_samples_and_at_least_the_median(values: list[float]) -> None:
    assert p95(values) in values
    assert sum(value > p95(values) for value in values) <= 0.05 * len(values)


def test_figures() -> None:
    samples = Samples()
    for value in (3.0, 1.0, 8.0):
        samples.add("a->b:switch_s", "s", value)
    samples.add("untold", "s", None)
    (figure,) = samples.figures().values()
    assert (figure.value, figure.p50, figure.p95, figure.n) == (3.0, 3.0, 8.0, 3)


def test_the_machine_as_the_kernel_tells_it(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Abacus 9000\n")
    (tmp_path / "meminfo").write_text("MemTotal:  2048 kB\nMemAvailable:  1024 kB\n")
    card = tmp_path / "driver/nvidia/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA Loom\nIRQ: 5\n")
    found = machine("cuda", tmp_path)
    assert found["cpu"] == "Abacus 9000"
    assert found["memory_bytes"] == 2 << 20
    assert found["gpus"] == ["NVIDIA Loom"]
    assert available_memory(tmp_path) == 1 << 20


class BenchJob:
    def __init__(self, result: Result) -> None:
        self._result = result

    def result(self) -> Result:
        return self._result


class BenchClient(FakeClient):
    """Loads in 2 s, switches in 3 s, draws an image in 1 s, of which text takes a tenth."""

    loaded: str | None = None

    def unload(self, model: str) -> str:
        if self.loaded == model:
            self.loaded = None
        return super().unload(model)

    def load(self, model: str, *, keep_alive: float | None = None) -> Any:
        self._asked("load", model)
        timings = {"fork": 0.125, "hello": 0.375, "bind": 2.0, "ready": 2.5}
        if self.loaded not in (None, model):
            timings["switch"] = 3.0
        self.loaded = model
        return BenchJob(self._ended(model, Load(), timings))

    def generate(self, prompt: str | Sequence[str], *, model: str, n: int, **given: Any) -> Result:
        self._asked("generate", {"model": model, "n": n, **given})
        assert model == self.loaded, "images are measured without a switch"
        task = TextToImage(prompts=("p",), images_per_prompt=n, steps=10)
        timings = {"text_encoder": 0.1 * n, "denoise": 0.5 * n, "decode": 0.4 * n, "total": 1.0 * n}
        return self._ended(model, task, timings)

    def _ended(self, model: str, task: Load | TextToImage, timings: dict[str, float]) -> Result:
        count = task.count if isinstance(task, TextToImage) else 0
        output = Output(
            images=(Image(width=1, height=1),) * count, timings=timings, memory={"peak": 2**30}
        )
        worker = WorkerIdentity(
            model=model,
            architecture="x",
            epoch=1,
            pid=2**22 + 1,
            device="cpu",
            versions={"torch": "2.13"},
        )
        return Result(
            JobSucceeded(job_id="j", task=task, output=output, worker=worker), [b"rgb"] * count
        )


@pytest.fixture
def client() -> FakeClient:
    return BenchClient()


def test_as_json(run: Run, client: FakeClient) -> None:
    done = run("bench", "-m", "a", "-m", "b", "--batch", "1,4", "--rounds", "2", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert {"bench", "machine", "versions", "figures", "ratios"} <= set(report)
    assert report["bench"] == "hermetic"
    assert report["versions"]["torch"] == "2.13"
    figures = report["figures"]
    assert figures["a->b:switch_s"] == {"value": 3.0, "unit": "s", "n": 2, "p50": 3.0, "p95": 3.0}
    assert figures["b->a:switch_s"]["n"] == 2
    assert figures["b->a:fork_s"]["value"] == 0.125
    assert "b->a:exec_s" not in figures, "what was not measured has no figure"
    assert figures["a:batch4:it_per_s"]["value"] == pytest.approx(20.0)
    assert figures["a:batch4:denoise_s"]["n"] == 2, "the warm-up does not count"
    assert figures["after_unload:workers"]["value"] == 0
    assert report["ratios"]["b:batch1:decode/total"] == pytest.approx(0.4)
    assert "b:batch4/batch1" in report["ratios"]


def test_as_tables(run: Run) -> None:
    done = run("bench", "-m", "a", "-m", "b", "--batch", "2")
    for said in ("a->b", "b->a", "3.00 s", "200 ms", "1.0 GiB", "0 workers left", "125 ms"):
        assert said in done.stdout
    (heading,) = [line for line in done.stdout.splitlines() if line.startswith("SWITCH")]
    assert heading.split()[4:] == ["READY", "FORK", "HELLO", "BIND"], "none that nobody was at"
    assert "warm-up" in done.stderr


def test_one_model_is_loaded_anew_each_round(run: Run, client: FakeClient) -> None:
    done = run("bench", "-m", "a", "--batch", "1", "--rounds", "2", "--json")
    figures = json.loads(done.stdout)["figures"]
    assert figures["a:ready_s"]["n"] == 2
    assert "a:switch_s" not in figures


def test_settings_reach_the_jobs(run: Run, client: FakeClient) -> None:
    run("bench", "-m", "a", "--steps", "7", "--size", "64x32", "--batch", "1", "--rounds", "1")
    assert client.asked("generate")[0] == {
        "model": "a", "n": 1, "steps": 7, "width": 64, "height": 32, "seed": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "words", [(), ("-m", "a", "--batch", "1,x"), ("-m", "a", "--device", "cpu")]
)
def test_usage(run: Run, words: tuple[str, ...]) -> None:
    assert run("bench", *words).exit_code == 2
