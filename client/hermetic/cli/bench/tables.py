"""The benchmark's report for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from hermetic.cli.output import duration, print_table, size

from .figures import Figure, tour
from .measure import STAGES, Plan

__all__ = ["print_report"]

_IMAGES = (
    *("MODEL", "BATCH", "IMAGES/S", "IT/S"),
    *("TEXT-ENCODER", "DENOISER", "VAE", "TOTAL", "PEAK"),
)
_LOADS = ("SWITCH", "N", "MEDIAN", "P95", "READY")


def print_report(plan: Plan, figures: Mapping[str, Figure], report: Mapping[str, Any]) -> None:
    """All of the report that people read."""
    found = report["machine"]
    click.echo(
        f"{found['cpu']}, {found['cores']} cores, {size(found['memory_bytes'])}, "
        f"{', '.join([found['device'], *found['gpus']])}, Linux {found['kernel']}"
    )
    click.echo(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    click.echo(f"\nImages, median of {plan.rounds} after a warm-up")
    images = [
        _image_cells(figures, model, batch) for model in plan.models for batch in plan.batches
    ]
    print_table(_IMAGES, images, right=_IMAGES[1:])
    click.echo(f"\nLoads and switches, {plan.rounds} interleaved rounds")
    names = [f"{a}->{b}" for a, b in tour(plan.models)] or list(plan.models)
    # A forked worker's stages are not those of a new interpreter, nor a GPU's those of a CPU.
    told = [one for one in STAGES if any(f"{name}:{one}_s" in figures for name in names)]
    columns = (*_LOADS, *(one.upper() for one in told))
    print_table(columns, [_load_cells(figures, name, told) for name in names], right=columns[1:])
    workers = figures["after_unload:workers"].value
    taken = int(figures["after_unload:memory_bytes"].value)
    click.echo(
        f"\nAfter unload: {workers:.0f} workers left; the whole machine has {size(abs(taken))} "
        f"{'less' if taken > 0 else 'more'} memory available than before the first load"
    )


def _image_cells(figures: Mapping[str, Figure], model: str, batch: int) -> list[str]:
    name = f"{model}:batch{batch}"
    rates = [figures.get(f"{name}:{rate}_per_s") for rate in ("images", "it")]
    stages = [figures.get(f"{name}:{s}_s") for s in ("text_encoder", "denoise", "decode", "total")]
    peak = figures.get(f"{model}:peak_bytes")
    return [
        model,
        str(batch),
        *(f"{rate.value:.2f}" if rate else "-" for rate in rates),
        *(duration(stage.value) if stage else "-" for stage in stages),
        size(int(peak.p95)) if peak else "-",
    ]


def _load_cells(figures: Mapping[str, Figure], name: str, told: Sequence[str]) -> list[str]:
    whole = figures.get(f"{name}:switch_s") or figures.get(f"{name}:ready_s")
    stages = [figures.get(f"{name}:{stage}_s") for stage in ("ready", *told)]
    return [
        name,
        str(whole.n) if whole else "0",
        duration(whole.p50) if whole else "-",
        duration(whole.p95) if whole else "-",
        *(duration(stage.value) if stage else "-" for stage in stages),
    ]
