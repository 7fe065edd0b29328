"""Measures a daemon: loads and switches in interleaved rounds, then images by batch size.

Every first time is a warm-up and not counted: the page cache, the first batch of a size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hermetic import Client, Result
from hermetic.cli.output import duration
from hermetic.cli.process_life import ProcessLife
from hermetic.cli.stages import LOADING, STARTING
from hermetic_wire.generation import TextToImage, WorkerIdentity

from .figures import Samples, tour
from .machine import available_memory

__all__ = ["STAGES", "Plan", "measure"]

STAGES = ("reap", "release", *STARTING, *LOADING, "smoke")
"""Of a worker's start and load, in the order in which they come."""
_SPLIT = ("text_encoder", "denoise", "decode", "total")


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    models: tuple[str, ...]
    batches: tuple[int, ...]
    rounds: int
    prompt: str
    steps: int | None
    size: tuple[int, int] | None


def measure(
    client: Client, plan: Plan, samples: Samples, say: Callable[[str], None]
) -> WorkerIdentity:
    """Fill in the samples; one of the workers, for its device and versions."""
    for model in plan.models:
        client.unload(model)
    before = available_memory()
    for model in plan.models:
        say(f"warm-up: {model}")
        client.load(model).result()
    for number in range(1, plan.rounds + 1):
        say(f"loads and switches, round {number} of {plan.rounds}")
        _measure_loads(client, plan, samples)
    workers = [_measure_images(client, plan, model, samples, say) for model in plan.models]
    lives = [ProcessLife.of(worker.pid) for worker in workers]
    for model in plan.models:
        client.unload(model)
    left = [life for life in lives if life is not None and life.goes_on]
    samples.add("after_unload:workers", "processes", len(left))
    samples.add("after_unload:memory_bytes", "bytes", before - available_memory())
    return workers[-1]


def _measure_loads(client: Client, plan: Plan, samples: Samples) -> None:
    if len(plan.models) == 1:
        client.unload(plan.models[0])
        _sample_load(samples, plan.models[0], client.load(plan.models[0]).result())
        return
    # The tour begins at the first model; the warm-up, or the images before, ended elsewhere.
    client.load(plan.models[0]).result()
    for former, model in tour(plan.models):
        _sample_load(samples, f"{former}->{model}", client.load(model).result())


def _sample_load(samples: Samples, name: str, result: Result) -> None:
    for stage in ("switch", "ready", *STAGES):
        samples.add(f"{name}:{stage}_s", "s", result.timings.get(stage))


def _measure_images(
    client: Client, plan: Plan, model: str, samples: Samples, say: Callable[[str], None]
) -> WorkerIdentity:
    result = client.load(model).result()
    for number in range(plan.rounds + 1):
        warm_up = number == 0
        for batch in plan.batches:
            began = time.monotonic()
            result = _draw(client, plan, model, batch)
            wall = time.monotonic() - began
            say(f"{model}, batch {batch}: {duration(wall)}{' (warm-up)' if warm_up else ''}")
            if not warm_up:
                _sample_images(samples, f"{model}:batch{batch}", result, batch, wall)
            peak = result.memory.get("device_peak", result.memory.get("peak"))
            samples.add(f"{model}:peak_bytes", "bytes", peak)
    return result.worker


def _draw(client: Client, plan: Plan, model: str, batch: int) -> Result:
    width, height = plan.size or (None, None)
    return client.generate(
        plan.prompt, model=model, steps=plan.steps, width=width, height=height, seed=1, n=batch
    )


def _sample_images(samples: Samples, name: str, result: Result, batch: int, wall: float) -> None:
    """Images per second are the app's, the split is the worker's."""
    samples.add(f"{name}:images_per_s", "images/s", batch / wall)
    denoise = result.timings.get("denoise")
    if isinstance(result.task, TextToImage) and result.task.steps and denoise:
        samples.add(f"{name}:it_per_s", "it/s", result.task.steps * batch / denoise)
    for stage in _SPLIT:
        samples.add(f"{name}:{stage}_s", "s", result.timings.get(stage))
