"""The same prompts and seeds through one model, then the other, and again; facts on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256

from hermetic import Client, JobUpdate, Result
from hermetic.cli.process_life import ProcessLife
from hermetic.cli.progress import Show
from hermetic_wire.messages import JobRunning

__all__ = ["Round", "play"]


@dataclass(frozen=True)
class Round:
    """One model's turn."""

    number: int
    model: str
    result: Result
    life: ProcessLife | None
    """The worker's, seen while it lived; None where it had no entry in /proc."""
    former_gone: bool | None
    """Whether the former worker had ended when this one began to draw; None in the first round."""
    workers: int
    """How many workers with a model lived at the round's end; a standby has none yet."""

    @property
    def digests(self) -> tuple[str, ...]:
        """A digest of each image's pixels."""
        return tuple(sha256(pixels).hexdigest() for pixels in self.result.pixels)

    @property
    def seconds_per_image(self) -> float | None:
        """From the text to the pixels, in the worker."""
        total = self.result.timings.get("total")
        images = len(self.result.pixels)
        return None if total is None or not images else total / images


def play(
    client: Client,
    models: Sequence[str],
    prompts: Sequence[str],
    seeds: Sequence[int],
    progress: Callable[[str], AbstractContextManager[Show]],
) -> Iterator[Round]:
    """Draw all prompts with each model in turn; a round per model. Raises what a job raises."""
    former: ProcessLife | None = None
    for number, model in enumerate(models, 1):
        watch = _Watch(former)
        with progress(f"round {number}, {model}") as watch.show:
            result = client.generate(prompts, model=model, seed=list(seeds), on_update=watch)
        life = ProcessLife.of(result.worker.pid)
        yield Round(
            number=number,
            model=model,
            result=result,
            life=life,
            former_gone=watch.former_gone,
            workers=sum(bool(row.model) for row in client.workers()),
        )
        former = life


class _Watch:
    """Looks for the former worker at the moment at which the new one begins to draw."""

    show: Show

    def __init__(self, former: ProcessLife | None) -> None:
        self._former = former
        self.former_gone: bool | None = None

    def __call__(self, update: JobUpdate) -> None:
        self.show(update)
        if isinstance(update, JobRunning) and self._former is not None:
            self.former_gone = not self._former.goes_on
