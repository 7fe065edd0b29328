"""The picture of the dispatcher beside first come, first served. matplotlib comes in here alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["plot"]

_COLOURS = {"dispatcher": "tab:blue", "first come, first served": "lightgrey"}
_HALF = 0.38


def plot(cases: Mapping[str, Mapping[str, tuple[float, float]]], file: Path) -> None:
    """A panel per figure, two bars per case in each: `cases` has, by case and panel, ours and the
    other's."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    panels = list(next(iter(cases.values())))
    size = (3.6 * len(panels) + 1.5, 1.4 + 0.5 * len(cases))
    drawing, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained")
    for panel, title in zip(axes, panels, strict=True):
        for side, (label, colour) in enumerate(_COLOURS.items()):
            places = [row + (side - 0.5) * _HALF for row in range(len(cases))]
            widths = [case[title][side] for case in cases.values()]
            panel.barh(places, widths, height=_HALF, label=label, color=colour)
        panel.set_yticks(range(len(cases)), list(cases))
        panel.set_xlabel(title)
        if title.endswith("seconds"):
            panel.set_xscale("symlog", linthresh=1.0)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=2)
    drawing.savefig(file, dpi=120)
    plt.close(drawing)
