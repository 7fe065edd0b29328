"""Real diffusers pipelines, tiny and random: the same pixels as without Hermetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hermetic_wire.errors import GenerationFailed, InvalidParameter
from hermetic_wire.generation import TextToImage
from hermetic_wire.worker import Assign, ModelSpec
from hermetic_worker.pipelines import pipeline_for
from hermetic_worker.pipelines.base import OUTLINED, Footprint, Pipeline, Result
from hermetic_worker.pipelines.stable_diffusion import StableDiffusion

from .conftest import DIFFUSERS

pytestmark = DIFFUSERS
ARCHITECTURES = ("sd15", "sdxl")


class Cancelled(Exception):
    """What this test's step callback raises."""


def task(*prompts: str, **changes: Any) -> TextToImage:
    fields: dict[str, Any] = {
        "prompts": prompts or ("a red circle",),
        "width": 64,
        "height": 64,
        "steps": 2,
        "guidance": 7.5,
        "seeds": (11,),
    }
    return TextToImage(**(fields | changes))


def ignore_step(step: int, steps: int, timestep: float | None = None, show: object = None) -> None:
    """An OnStep that goes on."""


def pixels(result: Result) -> list[bytes]:
    return [bytes(frame) for frame in result.frames]


@pytest.fixture(scope="module")
def loaded(sd15_folder: Path, sdxl_folder: Path) -> dict[str, tuple[Pipeline, Footprint]]:
    """Both architectures, each loaded once for all tests: no test may leave a trace."""
    found = {}
    for name, folder in zip(ARCHITECTURES, (sd15_folder, sdxl_folder), strict=True):
        pipeline = pipeline_for(name)
        spec = ModelSpec(name=name, architecture=name, path=str(folder))
        found[name] = (
            pipeline,
            pipeline.load(Assign(model=spec, device="cpu"), lambda stage, fraction: None),
        )
    return found


@pytest.fixture(params=ARCHITECTURES)
def pipeline(
    request: pytest.FixtureRequest, loaded: dict[str, tuple[Pipeline, Footprint]]
) -> Pipeline:
    return loaded[request.param][0]


def bare(folder: Path, wanted: TextToImage) -> list[bytes]:
    """What plain diffusers draws for the task with one generator."""
    import diffusers
    import torch

    pipe: Any = diffusers.DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    images = pipe(
        prompt=list(wanted.prompts),
        negative_prompt=list(wanted.negative_prompts) or None,
        num_images_per_prompt=wanted.images_per_prompt,
        width=wanted.width,
        height=wanted.height,
        num_inference_steps=wanted.steps,
        guidance_scale=wanted.guidance,
        generator=torch.Generator().manual_seed(wanted.seeds[0]),
        **wanted.extra,
    ).images
    return [image.tobytes() for image in images]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "wanted",
    [
        task(negative_prompts=("blue",)),
        task(guidance=1.0, width=72, height=56),
        task("a", "b", images_per_prompt=2, negative_prompts=("c", "d")),
        task(extra={"guidance_rescale": 0.5, "eta": 0.0}),
    ],
    ids=["plain", "unguided", "batch", "extras"],
)
def test_the_pixels_are_those_of_bare_diffusers(
    architecture: str,
    wanted: TextToImage,
    loaded: dict[str, tuple[Pipeline, Footprint]],
    sd15_folder: Path,
    sdxl_folder: Path,
) -> None:
    folder = sd15_folder if architecture == "sd15" else sdxl_folder
    result = loaded[architecture][0].run(wanted, ignore_step)
    assert pixels(result) == bare(folder, wanted)
    sizes = {(image.width, image.height) for image in result.output.images}
    assert sizes == {(wanted.width, wanted.height)}


def offloaded(pipeline: Any) -> set[str]:
    """The components of which no layer stays on the device; diffusers' own way to tell."""
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    return {
        name
        for name, part in pipeline._pipe.components.items()
        if hasattr(part, "parameters") and _is_group_offload_enabled(part)
    }


@pytest.mark.parametrize("outlined", [True, False], ids=["skeleton", "from-pretrained"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_low_memory_profile_draws_the_same_to_the_bit(
    architecture: str,
    outlined: bool,
    loaded: dict[str, tuple[Pipeline, Footprint]],
    sd15_folder: Path,
    sdxl_folder: Path,
) -> None:
    folder = sd15_folder if architecture == "sd15" else sdxl_folder
    thrifty = pipeline_for(architecture)
    spec = ModelSpec(name=architecture, architecture=architecture, path=str(folder))
    if outlined:
        assert thrifty.outline(spec, "cpu") == OUTLINED
    assign = Assign(model=spec, device="cpu", low_memory=True)
    footprint = thrifty.load(assign, lambda stage, fraction: None)
    assert set(footprint.loaded_by.values()) == {"skeleton" if outlined else "from_pretrained"}
    encoders = {"text_encoder"} if architecture == "sd15" else {"text_encoder", "text_encoder_2"}
    assert offloaded(thrifty) == {"unet", "vae", *encoders}
    assert not offloaded(loaded[architecture][0])
    wanted = task("a")
    drawn = pixels(thrifty.run(wanted, ignore_step))
    assert drawn == pixels(loaded[architecture][0].run(wanted, ignore_step))


def test_layers_of_clip_can_be_skipped(pipeline: Pipeline) -> None:
    skipped = pipeline.run(task(extra={"clip_skip": 1}), ignore_step)
    assert pixels(skipped) != pixels(pipeline.run(task(), ignore_step))


def test_a_batch_is_its_single_images(pipeline: Pipeline) -> None:
    batch = pipeline.run(task("a", "b", images_per_prompt=2, seeds=(1, 2, 3, 4)), ignore_step)
    singles = [
        pixels(pipeline.run(task(prompt, seeds=(seed,)), ignore_step))[0]
        for prompt, seed in (("a", 1), ("a", 2), ("b", 3), ("b", 4))
    ]
    assert pixels(batch) == singles
    assert batch.output.seeds == (1, 2, 3, 4)


def test_one_negative_prompt_is_for_all(pipeline: Pipeline) -> None:
    one = pipeline.run(task("a", "b", negative_prompts=("c",), seeds=(1, 2)), ignore_step)
    each = pipeline.run(task("a", "b", negative_prompts=("c", "c"), seeds=(1, 2)), ignore_step)
    assert pixels(one) == pixels(each)


def test_nothing_of_a_job_is_left_for_the_next(pipeline: Pipeline) -> None:
    first = pixels(pipeline.run(task(), ignore_step))
    other = task("b", steps=4, guidance=1.0, width=72, extra={"clip_skip": 1}, seeds=(9,))
    assert pixels(pipeline.run(other, ignore_step)) != first
    assert pixels(pipeline.run(task(), ignore_step)) == first


@pytest.mark.parametrize("at", [1, 2])
def test_a_cancelled_pipeline_goes_on_as_if_nothing_was(pipeline: Pipeline, at: int) -> None:
    def cancel(step: int, steps: int, timestep: float | None = None, show: object = None) -> None:
        if step == at:
            raise Cancelled

    before = pixels(pipeline.run(task(), ignore_step))
    with pytest.raises(Cancelled):
        pipeline.run(task("b"), cancel)
    assert pixels(pipeline.run(task(), ignore_step)) == before


def test_the_steps_of_images_drawn_one_by_one_are_counted_together(pipeline: Pipeline) -> None:
    told: list[tuple[int, int]] = []
    pipeline.run(
        task("a", "b", seeds=(1, 2)),
        lambda step, steps, timestep=None, show=None: told.append((step, steps)),
    )
    assert told == [(step, told[0][1]) for step in range(1, told[0][1] + 1)]


def test_every_step_is_told_with_its_timestep(
    loaded: dict[str, tuple[Pipeline, Footprint]],
) -> None:
    told: list[tuple[int, int, float | None]] = []
    loaded["sd15"][0].run(
        task(steps=2),
        lambda step, steps, timestep=None, show=None: told.append((step, steps, timestep)),
    )
    assert [(step, steps) for step, steps, _ in told] == [(1, 3), (2, 3), (3, 3)], "PNDM: n + 1"
    assert [timestep for _, _, timestep in told] == [501.0, 1.0, 1.0]


def test_the_stages_add_up(pipeline: Pipeline) -> None:
    output = pipeline.run(task(), ignore_step).output
    timings = dict(output.timings)
    total, first_step = timings.pop("total"), timings.pop("first_step")
    assert timings["text_encoder"] < first_step < timings["text_encoder"] + timings["denoise"]
    assert set(timings) == {"text_encoder", "denoise", "decode"}
    assert all(seconds > 0 for seconds in timings.values())
    assert sum(timings.values()) == pytest.approx(total)
    assert output.memory["peak"] >= output.memory["resident"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_model_tells_what_it_took(
    architecture: str, loaded: dict[str, tuple[Pipeline, Footprint]]
) -> None:
    found = loaded[architecture][1]
    assert set(found.timings) == {"imports", "load", "place", "smoke"}
    assert set(found.memory) == {"resident", "peak"}
    assert set(found.versions) == {"torch", "diffusers", "transformers"}


def test_progress_goes_forward(sd15_folder: Path) -> None:
    told: list[tuple[str, float]] = []
    spec = ModelSpec(name="m", architecture="sd15", path=str(sd15_folder))
    StableDiffusion().load(
        Assign(model=spec, device="cpu"), lambda stage, fraction: told.append((stage, fraction))
    )
    assert [stage for stage, _ in told] == ["imports", "weights", "device", "smoke"]
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"scheduler": "euler"}, "'scheduler' was given; this model takes clip_skip, eta"),
        ({"clip_skip": 1.5}, "clip_skip was 1.5"),
        ({"clip_skip": True}, "clip_skip was True"),
        ({"eta": "much"}, "eta was 'much'"),
    ],
)
def test_extras_that_are_not_understood_are_refused(
    pipeline: Pipeline, extra: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidParameter, match=said):
        pipeline.run(task(extra=extra), ignore_step)


def test_no_numbers_are_no_image() -> None:
    import numpy as np

    from hermetic_worker.results import framed

    with pytest.raises(GenerationFailed, match="NaN"):
        framed(np.full((1, 8, 8, 3), np.nan, dtype=np.float32))
