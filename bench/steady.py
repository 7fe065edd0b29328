"""Images per second through the daemon and in a bare diffusers loop, in turns, at equal settings.

Both end with PIL images in the app. The pictures are compared first: of arms that do not draw the
same, the speeds would say nothing.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar
from PIL import Image, ImageChops

from _arms import BenchError, progress
from _lives import Lives
from _plan import order
from _report import arguments, positive, tell
from hermetic import Client, Result
from hermetic.cli.bench.figures import Samples
from hermetic_wire.errors import HermeticError

PROMPT = "a red circle on a white background"
SAME = 2
"""Of 255: as far apart as rounding can bring two pixels of one picture."""
JOB_S = 300.0
BUDGET = 0.99


@dataclass(frozen=True)
class Settings:
    """What is drawn, by whomever."""

    model: str
    folder: str
    device: str
    dtype: str
    steps: int
    guidance: float
    width: int
    height: int

    @classmethod
    def of(cls, client: Client, options: argparse.Namespace) -> Settings:
        """As an app that leaves everything but the steps to the model."""
        row = client.model(options.model)
        if row.path is None:
            raise BenchError(f"{row.name} has no folder; name a model that diffusers can load")
        dtype = "float32" if options.device == "cpu" else "float16"
        width, height = int(row.defaults["width"]), int(row.defaults["height"])
        guidance = float(row.defaults["guidance"])
        return cls(
            row.name, row.path, options.device, dtype, options.steps, guidance, width, height
        )


Draw = Callable[[Sequence[int]], list[Image.Image]]
"""The images of these seeds, one after the other."""


def bare(settings: Settings) -> Draw:
    """The loop that an app without Hermetic would have."""
    disable_progress_bar()
    pipeline: Any = DiffusionPipeline.from_pretrained(
        settings.folder, dtype=getattr(torch, settings.dtype), local_files_only=True
    )
    pipeline.to(settings.device)
    pipeline.set_progress_bar_config(disable=True)

    def draw(seed: int) -> Image.Image:
        found: Image.Image = pipeline(
            PROMPT,
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance,
            width=settings.width,
            height=settings.height,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        return found

    return lambda seeds: [draw(seed) for seed in seeds]


class Through:
    """The daemon, by an app that waits for each image, or that has all of a round in the queue."""

    def __init__(self, client: Client, settings: Settings, samples: Samples) -> None:
        self._client, self._settings, self._samples = client, settings, samples
        self.counts = False
        """Whether what an image costs is noted."""

    def one_by_one(self, seeds: Sequence[int]) -> list[Image.Image]:
        """The next is submitted when the former is there."""
        return [self._waited_for(seed) for seed in seeds]

    def ahead(self, seeds: Sequence[int]) -> list[Image.Image]:
        """All are submitted first, so the device never waits for the app."""
        jobs = [self._client.submit(PROMPT, **self._arguments(seed)) for seed in seeds]
        return [job.result(JOB_S).images[0] for job in jobs]

    def _waited_for(self, seed: int) -> Image.Image:
        began = time.perf_counter()
        result = self._client.generate(PROMPT, timeout=JOB_S, **self._arguments(seed))
        came = time.perf_counter()
        picture = result.images[0]
        if self.counts:
            self._note(result, came - began, time.perf_counter() - came)
        return picture

    def _note(self, result: Result, waited: float, unpacked: float) -> None:
        total = result.timings["total"]
        self._samples.add("worker_image_ms", "ms", total * 1000)
        self._samples.add("around_the_worker_ms", "ms", (waited - total) * 1000)
        self._samples.add("pixels_to_pil_ms", "ms", unpacked * 1000)

    def _arguments(self, seed: int) -> dict[str, Any]:
        settings = self._settings
        return {
            "model": settings.model,
            "steps": settings.steps,
            "guidance": settings.guidance,
            "width": settings.width,
            "height": settings.height,
            "seed": seed,
        }


def main() -> None:
    """The whole of it."""
    options = parser().parse_args()
    samples = Samples()
    torch.set_num_threads(options.threads)
    try:
        with Lives("", options.device, threads=options.threads) as lives, lives.client() as client:
            ratios = measured(client, options, samples)
    except (BenchError, HermeticError) as error:
        raise SystemExit(f"steady: {error}") from error
    settings = {name: getattr(options, name) for name in ("model", "steps", "threads")}
    tell("steady", options.device, samples, ratios, options.json, settings)
    word = "holds" if ratios["daemon/bare"] >= BUDGET else "does not hold"
    progress(f"{word}: daemon/bare is {ratios['daemon/bare']:.3f}; the budget is at least {BUDGET}")


def parser() -> argparse.ArgumentParser:
    """Its options."""
    found = arguments(__doc__ or "", rounds=40)
    found.add_argument("-m", "--model", default="demo-sd15", help="default: demo-sd15")
    found.add_argument("--steps", type=positive, default=20, help="default: 20")
    help = "per round and arm; default: 4"
    found.add_argument("--images", type=positive, default=4, help=help)
    cores = len(os.sched_getaffinity(0))
    help = f"of either arm, on a CPU; default: {cores}"
    found.add_argument("--threads", type=positive, default=cores, help=help)
    return found


def measured(client: Client, options: argparse.Namespace, samples: Samples) -> dict[str, float]:
    """The ratios: of each round, and then their median, so that a slow minute is everybody's."""
    settings = Settings.of(client, options)
    through = Through(client, settings, samples)
    arms: dict[str, Draw] = {
        "bare": bare(settings),
        "daemon": through.one_by_one,
        "ahead": through.ahead,
    }
    compare({name: draw([0, 1]) for name, draw in arms.items()})
    through.counts = True
    rounds = []
    for turn in range(options.rounds):
        rates = _round(arms, order(list(arms), turn), options.images)
        for name in arms:
            samples.add(f"{name}_images_per_s", "images/s", rates[name])
        rounds.append(rates)
        progress(", ".join(f"{name} {rates[name]:.2f} images/s" for name in arms))
    return {
        f"{name}/bare": median(rates[name] / rates["bare"] for rates in rounds)
        for name in arms
        if name != "bare"
    }


def _round(arms: Mapping[str, Draw], names: Sequence[str], images: int) -> dict[str, float]:
    rates = {}
    for name in names:
        began = time.perf_counter()
        arms[name](range(images))
        rates[name] = images / (time.perf_counter() - began)
    return rates


def compare(drawn: Mapping[str, Sequence[Image.Image]]) -> None:
    """Raises BenchError where an arm has drawn another picture than the bare loop has."""
    for name, pictures in drawn.items():
        for ours, theirs in zip(pictures, drawn["bare"], strict=True):
            if ours.size != theirs.size or _distance(ours, theirs) > SAME:
                raise BenchError(f"{name} and bare do not draw the same pictures")


def _distance(one: Image.Image, other: Image.Image) -> int:
    extremes: Any = ImageChops.difference(one, other).getextrema()
    return max(int(high) for _, high in extremes)


if __name__ == "__main__":
    main()
