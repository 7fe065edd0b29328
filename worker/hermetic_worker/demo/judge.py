"""Tells what a picture shows: its shape and the two colours. Knows no caption and no model."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .shapes import KINDS, PALETTE, Scene, Shape, draw

_CLOSE = 70.0
"""Distance in RGB, each 0 to 255, up to which a pixel has a palette colour."""

_APART = 60.0
"""Distance in RGB from the background from which a pixel belongs to the shape."""

_BORDER_SHARE = 0.6
_SHAPE_SHARE = 0.4
_MIN_PIXELS = 24
_MIN_OVERLAP = 0.7
_GRID = 32


@dataclass(frozen=True)
class Verdict:
    """What was recognised. None: nothing clear enough."""

    colour: str | None
    background: str | None
    kind: str | None


@dataclass(frozen=True)
class _Outline:
    """A shape cut out of its picture: cells (32, 32) of 0 or 1, and width over height."""

    cells: Tensor
    aspect: float

    def likeness(self, other: "_Outline") -> float:
        """Overlap over union of the cells, less for other proportions: at most 1."""
        both = (self.cells * other.cells).sum()
        either = torch.maximum(self.cells, other.cells).sum()
        stretch = abs(torch.tensor(self.aspect / other.aspect).log())
        return float(both / either - 0.3 * stretch)


def judge(picture: Tensor) -> Verdict:
    """Read a picture, uint8 (3, height, width), that shows one shape on a plain background."""
    pixels = picture.float()
    border = torch.cat([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], 1)
    background = _main_colour(border, _BORDER_SHARE)
    if background is None:
        # Nothing stands out from a ground that is not plain.
        return Verdict(None, None, None)
    ground = border.median(1).values.view(3, 1, 1)
    inside = (pixels - ground).norm(dim=0) > _APART
    if int(inside.sum()) < _MIN_PIXELS:
        return Verdict(None, background, None)
    colour = _main_colour(pixels[:, _core(inside)], _SHAPE_SHARE)
    return Verdict(colour, background, _kind(inside))


def _core(inside: Tensor) -> Tensor:
    """A mask without its edge, whose colours are mixed or a rim's; all of it if nothing is left."""
    for edge in (2, 1):
        outside = (~inside)[None, None].float()
        grown = torch.nn.functional.max_pool2d(outside, 2 * edge + 1, 1, edge)
        core = grown[0, 0] == 0
        if int(core.sum()) >= _MIN_PIXELS:
            return core
    return inside


def _main_colour(pixels: Tensor, least: float) -> str | None:
    """The palette colour most pixels (3, count) have, if that is at least a certain share."""
    palette = torch.tensor(list(PALETTE.values()), dtype=torch.float32)
    distance, nearest = torch.cdist(pixels.T, palette).min(1)
    votes = torch.bincount(nearest[distance < _CLOSE], minlength=len(palette))
    if int(votes.max()) < least * pixels.shape[1]:
        return None
    return list(PALETTE)[int(votes.argmax())]


def _kind(inside: Tensor) -> str | None:
    """The shape whose template a mask (height, width) overlaps best, if it does so well."""
    outline = _cut_out(inside)
    likeness = {kind: outline.likeness(template) for kind, template in _templates().items()}
    best = max(likeness, key=likeness.__getitem__)
    return best if likeness[best] >= _MIN_OVERLAP else None


def _cut_out(inside: Tensor) -> _Outline:
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    cut = inside[int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    cells = torch.nn.functional.interpolate(
        cut[None, None].float(), (_GRID, _GRID), mode="bilinear", antialias=True
    )
    return _Outline((cells[0, 0] > 0.5).float(), cut.shape[1] / cut.shape[0])


@cache
def _templates() -> dict[str, _Outline]:
    """Each shape as drawn at the usual size."""
    scenes = {kind: Scene("", "black", (Shape("white", kind),)) for kind in KINDS}
    return {kind: _cut_out(draw(scene)[0] > 128) for kind, scene in scenes.items()}
