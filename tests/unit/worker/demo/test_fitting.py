"""The training loop: it learns, and stopping and resuming changes nothing."""

from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from hermetic_worker.demo import fitting
from hermetic_worker.demo.fitting import Plan, fit

PLAN = Plan(steps=100, peak=0.1, warmup=5, averaging=0.9)


def line() -> nn.Linear:
    """A line to fit, the same each time."""
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(0)
        model.bias.fill_(0)
    return model


def fitted(checkpoint: Path, stop_at: int | None = None) -> nn.Module:
    """Fit y = 2x + 1; ``stop_at`` breaks the run off before that step."""
    model = line()

    def loss_of(step: int, generator: Generator) -> Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.rand(8, 1, generator=generator)
        loss: Tensor = (model(x) - (2 * x + 1)).square().mean()
        return loss

    return fit(model, loss_of, PLAN, 3, checkpoint)


def test_it_learns(tmp_path: Path) -> None:
    model = fitted(tmp_path / "line.ckpt")
    assert abs(float(model(torch.tensor([[0.5]]))) - 2) < 0.2


def test_a_resumed_run_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_KEEP_EVERY", 10)
    whole = fitted(tmp_path / "whole.ckpt").state_dict()
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "broken.ckpt", stop_at=25)
    resumed = fitted(tmp_path / "broken.ckpt").state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    first = fitted(tmp_path / "line.ckpt").state_dict()
    again = fitted(tmp_path / "line.ckpt", stop_at=0).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_progress_tells_rate_and_time_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(tmp_path / "line.ckpt")
    said = capsys.readouterr().out
    assert said.startswith("line 100/100 loss ")
    assert said.endswith(" steps/s 0.0 min left\n")


def test_the_rate_rises_then_falls() -> None:
    rates = [PLAN.rate(step) for step in range(PLAN.steps)]
    assert max(rates) <= PLAN.peak
    assert rates.index(max(rates)) == 4
    assert rates[-1] < 0.03 * PLAN.peak
