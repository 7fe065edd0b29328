"""Images per second through the daemon and in a bare diffusers loop, interleaved in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from diffusers import DiffusionPipeline

from _report import arguments, tell
from hermetic import Client
from hermetic.cli.bench.figures import Samples
from hermetic.cli.own_daemon import own_daemon

PROMPT = "a red circle on a white background"


def bare_loop(folder: str, device: str, steps: int) -> Callable[[int], object]:
    """The loop that an app without Hermetic would have."""
    dtype = torch.float32 if device == "cpu" else torch.float16
    pipeline: Any = DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)

    def draw(seed: int) -> object:
        generator = torch.Generator(device).manual_seed(seed)
        return pipeline(PROMPT, num_inference_steps=steps, generator=generator)

    return draw


def main() -> None:
    parser = arguments(__doc__ or "", rounds=5)
    parser.add_argument("-m", "--model", default="demo-sd15")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--images", type=int, default=8, help="images per round and arm")
    options = parser.parse_args()
    samples = Samples()
    with own_daemon(device=options.device) as daemon:
        arms = _arms(daemon.client, options.model, options.device, options.steps)
        for draw in arms.values():
            draw(0)
        rates: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(options.rounds):
            for name, draw in arms.items():
                began = time.perf_counter()
                for seed in range(options.images):
                    draw(seed)
                rate = options.images / (time.perf_counter() - began)
                rates[name].append(rate)
                samples.add(f"{name}_images_per_s", "images/s", rate)
    ratio = {"daemon/bare": median(rates["daemon"]) / median(rates["bare"])}
    tell("steady", options.device, samples, ratio, options.json)


def _arms(
    client: Client, model: str, device: str, steps: int
) -> dict[str, Callable[[int], object]]:
    folder = client.model(model).path
    if folder is None:
        raise SystemExit(f"{model} has no folder; name a model that diffusers can load")
    return {
        "bare": bare_loop(folder, device, steps),
        "daemon": lambda seed: client.generate(PROMPT, model=model, steps=steps, seed=seed),
    }


if __name__ == "__main__":
    main()
