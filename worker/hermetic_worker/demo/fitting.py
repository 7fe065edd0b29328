"""The training loop shared by every stage: learning rate, averaging, checkpoints, progress.

Owns no model and no data. A run that was stopped and resumed ends in the same weights as one
that was not: all randomness of a step comes from a generator seeded by the seed and the step.
"""

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

_SAY_EVERY = 100
_KEEP_EVERY = 250


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn. Rates are AdamW's; the rate falls along a cosine to zero."""

    steps: int
    peak: float
    warmup: int = 100
    decay: float = 1e-2
    averaging: float = 0.998

    def rate(self, step: int) -> float:
        """The learning rate of one step."""
        falling = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.peak * min(1.0, (step + 1) / self.warmup) * (0.01 + 0.99 * falling)


def fit(
    model: Any,
    loss_of: Callable[[int, Generator], Tensor],
    plan: Plan,
    seed: int,
    checkpoint: Path,
) -> Any:
    """Minimise ``loss_of(step, generator)`` and return the model's moving average, in eval mode.

    Resumes from ``checkpoint`` if it is there, and keeps it up to date.
    """
    averaged = copy.deepcopy(model).requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, plan.peak, (0.9, 0.99), weight_decay=plan.decay)
    state = {"model": model, "averaged": averaged, "optimizer": optimizer}
    start = _resume(checkpoint, state)
    progress = _Progress(checkpoint.stem, start, plan.steps)
    for step in range(start, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        loss = loss_of(step, Generator().manual_seed(seed * 1_000_003 + step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        _average(averaged, model, min(plan.averaging, (1 + step) / (10 + step)))
        progress.note(step + 1, loss.item())
        if (step + 1) % _KEEP_EVERY == 0 or step + 1 == plan.steps:
            _keep(checkpoint, state, step + 1)
    return averaged.eval()


def _average(averaged: nn.Module, model: nn.Module, share: float) -> None:
    """Move each averaged weight a little towards the trained one."""
    new = [p.detach() for p in model.parameters()]
    torch._foreach_lerp_(list(averaged.parameters()), new, 1 - share)


def _resume(checkpoint: Path, state: dict[str, Any]) -> int:
    """Load a checkpoint into the state; the number of steps it had done."""
    if not checkpoint.exists():
        return 0
    kept = torch.load(checkpoint, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(kept[name])
    return int(kept["steps"])


def _keep(checkpoint: Path, state: dict[str, Any], steps: int) -> None:
    kept = {name: part.state_dict() for name, part in state.items()}
    # Renamed into place: a run killed while it writes leaves the older checkpoint whole.
    fresh = checkpoint.with_suffix(".new")
    torch.save({**kept, "steps": steps}, fresh)
    fresh.replace(checkpoint)


class _Progress:
    """Writes one line every so often: step, mean loss, rate, time left."""

    def __init__(self, name: str, start: int, steps: int) -> None:
        self._name, self._start, self._steps = name, start, steps
        self._begun = time.monotonic()
        self._losses: list[float] = []

    def note(self, step: int, loss: float) -> None:
        self._losses.append(loss)
        if step % _SAY_EVERY and step != self._steps:
            return
        rate = (step - self._start) / (time.monotonic() - self._begun)
        mean = sum(self._losses) / len(self._losses)
        self._losses.clear()
        left = (self._steps - step) / rate / 60
        sys.stdout.write(
            f"{self._name} {step}/{self._steps} loss {mean:.4f}"
            f" {rate:.2f} steps/s {left:.1f} min left\n"
        )
        sys.stdout.flush()
