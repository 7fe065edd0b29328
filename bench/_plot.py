"""The picture of a comparison: stacked bars of the stages. matplotlib comes in here alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import Any

from _arms import BenchError
from _plan import STAGES, stacked
from hermetic.cli.bench.figures import Figure

__all__ = ["plot", "require"]


def require() -> None:
    """Raises BenchError where there is nothing to draw with: before hours of work, not after."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BenchError("--plot needs matplotlib: pip install 'hermetic[bench]'")


def plot(
    figures: Mapping[str, Figure],
    arms: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    title: str,
    file: Path,
) -> None:
    """A bar per arm and direction, twice: to one scale, and enlarged for the faster half."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    bars = {
        f"{arm}\n{pair[0]} to {pair[1]}": stacked(figures, pair, arm)
        for arm in arms
        for pair in pairs
    }
    totals = [sum(bar.values()) for bar in bars.values()]
    size = (14, 1.6 + 0.45 * len(bars))
    drawing, panels = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for panel, longest in zip(panels, (max(totals), median_low(totals)), strict=True):
        _draw(panel, bars, plt.get_cmap("tab20"))
        panel.set_xlim(0, 1.15 * longest)
        panel.set_xlabel("median seconds of a switch")
    panels[0].invert_yaxis()
    panels[1].set_title("enlarged", fontsize="small")
    handles, stages = panels[0].get_legend_handles_labels()
    drawing.legend(handles, stages, loc="outside lower center", ncols=8, fontsize="small")
    drawing.suptitle(title)
    drawing.savefig(file, dpi=120)
    plt.close(drawing)


def _draw(panel: Any, bars: Mapping[str, Mapping[str, float]], colours: Any) -> None:
    stages = [stage for stage in STAGES if any(stage in bar for bar in bars.values())]
    left = [0.0] * len(bars)
    for number, stage in enumerate(stages):
        widths = [bar.get(stage, 0.0) for bar in bars.values()]
        colour = "lightgrey" if stage == "other" else colours(number % colours.N)
        panel.barh(list(bars), widths, left=left, label=stage, color=colour)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, total in enumerate(left):
        panel.annotate(
            f" {total:.3f} s", (total, row), va="center", fontsize="small", annotation_clip=True
        )
