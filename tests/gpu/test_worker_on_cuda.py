"""The worker's pipelines on a CUDA device: the same code as on the CPU, with its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hermetic_wire.errors import LoadFailed
from hermetic_wire.generation import TextToImage
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker import failures, libraries
from hermetic_worker.device import Device
from hermetic_worker.pipelines import pipeline_for
from hermetic_worker.pipelines.base import Footprint, Pipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.timeout(120),
]
TASK = TextToImage(
    prompts=("a red circle",), width=64, height=64, steps=2, guidance=7.5, seeds=(3,)
)


def ignore_step(step: int, steps: int, timestep: float | None = None, show: object = None) -> None:
    """An OnStep that goes on."""


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def loaded(request: pytest.FixtureRequest, folders: dict[str, Path]) -> tuple[Pipeline, Footprint]:
    architecture: str = request.param
    pipeline = pipeline_for(architecture)
    spec = ModelSpec(name="m", architecture=architecture, path=str(folders[architecture]))
    assign = Assign(model=spec, device="cuda")
    return pipeline, pipeline.load(assign, lambda stage, fraction: None)


def test_a_loaded_model_tells_its_device_memory(loaded: tuple[Pipeline, Footprint]) -> None:
    memory = loaded[1].memory
    assert memory["device_peak"] >= memory["device"] > 0


def test_nothing_of_a_job_is_left_for_the_next(loaded: tuple[Pipeline, Footprint]) -> None:
    pipeline = loaded[0]
    first = [bytes(frame) for frame in pipeline.run(TASK, ignore_step).frames]
    other = TextToImage(
        prompts=("b", "c"), width=64, height=128, steps=3, guidance=1.0, seeds=(1, 2)
    )
    assert len(pipeline.run(other, ignore_step).frames) == 2
    assert [bytes(frame) for frame in pipeline.run(TASK, ignore_step).frames] == first


def test_the_stages_are_timed(loaded: tuple[Pipeline, Footprint]) -> None:
    output = loaded[0].run(TASK, ignore_step).output
    assert all(seconds > 0 for seconds in output.timings.values())
    assert output.memory["device_peak"] > 0


def test_a_device_beyond_the_last_is_refused() -> None:
    libraries.bring_in()
    with pytest.raises(LoadFailed, match="there are only"):
        Device("cuda", 97).require()


def test_memory_that_is_not_there_is_told_in_figures() -> None:
    libraries.bring_in()
    import torch

    def fill() -> Any:
        return torch.empty(1 << 50, dtype=torch.uint8, device="cuda")

    with pytest.raises(torch.OutOfMemoryError) as caught:
        fill()
    told = failures.of_job(caught.value, "m")
    assert told.code == "out_of_memory"
    assert "unknown" not in told.message
