"""The drawn data: scenes of coloured shapes, their captions, and their pictures.

Everything the demo models ever saw is drawn here; no picture or caption comes from elsewhere.
Never trains, never scores.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SIDE = 64
"""Width and height of every picture, in pixels."""

PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (45, 85, 220),
    "yellow": (245, 210, 40),
    "orange": (245, 135, 30),
    "purple": (140, 60, 190),
    "pink": (245, 130, 180),
    "cyan": (40, 200, 210),
    "brown": (130, 80, 45),
    "gray": (128, 128, 128),
    "white": (250, 250, 250),
    "black": (20, 20, 20),
}
"""Colour names and their red, green and blue parts, 0 to 255."""

Style = Literal["flat", "bold"]
"""How a scene is drawn; each model learns one style. "bold" shapes fill more of the picture."""

_OPENINGS = ("", "", "", "a photo of ", "a picture of ", "an image of ", "a drawing of ")
_SIZES = {"": 0.58, "small": 0.36, "large": 0.82}
_PLACES = {
    "in the center": (0.0, 0.0),
    "on the left": (-0.38, 0.0),
    "on the right": (0.38, 0.0),
    "at the top": (0.0, -0.38),
    "at the bottom": (0.0, 0.38),
}
_SUPERSAMPLING = 3
_BOLDER = 1.3
_LARGEST = 0.95


@dataclass(frozen=True)
class Shape:
    """One shape. Centre and radius are in half pictures: the picture spans -1 to 1, y downwards."""

    colour: str
    kind: str
    x: float = 0.0
    y: float = 0.0
    radius: float = _SIZES[""]


@dataclass(frozen=True)
class Scene:
    """A caption and what it describes."""

    caption: str
    background: str
    shapes: tuple[Shape, ...]


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return (y < 0.72) & (y > 1.72 * x.abs() - 1.0)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    upright = (x.abs() < 0.32) & (y.abs() < 0.95)
    return upright | ((y.abs() < 0.32) & (x.abs() < 0.95))


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five points: each tenth of the plane is folded onto one edge, from a tip to a notch."""
    fifth = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    folded = (torch.remainder(angle + fifth / 2, fifth) - fifth / 2).abs()
    radius = (x * x + y * y).sqrt() * 0.92
    along, across = radius * torch.cos(folded), radius * torch.sin(folded)
    notch_x, notch_y = 0.45 * math.cos(fifth / 2), 0.45 * math.sin(fifth / 2)
    return (notch_x - 1) * across - notch_y * (along - 1) > 0


def _heart(x: Tensor, y: Tensor) -> Tensor:
    """The classic sextic, (x² + y² - 1)³ < x² y³, scaled into the unit circle."""
    across, up = x * 1.2, 0.15 - y * 1.2
    return (across**2 + up**2 - 1) ** 3 < across**2 * up**3


_INSIDE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: x * x + y * y < 1,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) < 0.86,
    "triangle": _triangle,
    "diamond": lambda x, y: x.abs() * 1.25 + y.abs() < 1.08,
    "ring": lambda x, y: (x * x + y * y < 1) & (x * x + y * y > 0.3),
    "cross": _cross,
    "star": _star,
    "heart": _heart,
}

KINDS = tuple(_INSIDE)
"""The names of the shapes."""


def with_article(noun: str) -> str:
    """The noun with "a" or "an" before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def background_unsaid(colour: str) -> str:
    """The background of a caption that names none: white, and black behind a white shape."""
    return "black" if colour == "white" else "white"


def sample_scene(rng: random.Random) -> Scene:
    """Draw a random scene: one shape, or (one in five) two side by side."""
    background = rng.choice(list(PALETTE)) if rng.random() < 0.5 else None
    if rng.random() < 0.2:
        phrase, shown, shapes = _two(rng, background)
    else:
        phrase, shown, shapes = _one(rng, background)
    if background is None:
        ending = ""
    elif rng.random() < 0.1:
        ending = f", {background} background"
    else:
        ending = f" on {with_article(background)} background"
    opening = rng.choice(_OPENINGS)
    if not opening and rng.random() < 0.1:
        phrase = phrase.split(" ", 1)[1]
    return Scene(opening + phrase + ending, shown, shapes)


def _one(rng: random.Random, background: str | None) -> tuple[str, str, tuple[Shape, ...]]:
    colour = rng.choice([c for c in PALETTE if c != background])
    kind, size = rng.choice(KINDS), rng.choice(("", "", "small", "large"))
    # A large shape has no room to move.
    place = rng.choice(list(_PLACES)) if size != "large" and rng.random() < 0.35 else ""
    radius = _SIZES[size] * rng.uniform(0.92, 1.08)
    if place and not size:
        radius *= 0.75
    x, y = _PLACES.get(place, (0.0, 0.0))
    shape = Shape(colour, kind, x + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.05, 0.05), radius)
    phrase = with_article(f"{size} {colour} {kind}".strip()) + (f" {place}" if place else "")
    return phrase, background or background_unsaid(colour), (shape,)


def _two(rng: random.Random, background: str | None) -> tuple[str, str, tuple[Shape, ...]]:
    shown = background or "white"
    colours = [c for c in PALETTE if c != shown]
    shapes = tuple(
        Shape(
            rng.choice(colours),
            rng.choice(KINDS),
            x + rng.uniform(-0.05, 0.05),
            rng.uniform(-0.1, 0.1),
            0.38 * rng.uniform(0.92, 1.08),
        )
        for x in (-0.46, 0.46)
    )
    return " and ".join(with_article(f"{s.colour} {s.kind}") for s in shapes), shown, shapes


def draw(scene: Scene, style: Style = "flat", side: int = SIDE) -> Tensor:
    """Draw a scene with smooth edges: uint8, (3, side, side)."""
    fine = side * _SUPERSAMPLING
    axis = (torch.arange(fine) + 0.5) / fine * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    picture = _colour(scene.background).expand(3, side, side)
    for shape in scene.shapes:
        radius = shape.radius
        if style == "bold":
            radius = min(radius * _BOLDER, _LARGEST)
        inside = _INSIDE[shape.kind]((x - shape.x) / radius, (y - shape.y) / radius).float()
        cover = torch.nn.functional.avg_pool2d(inside[None], _SUPERSAMPLING)
        picture = picture * (1 - cover) + _colour(shape.colour) * cover
    return picture.round().to(torch.uint8)


def _colour(name: str) -> Tensor:
    return torch.tensor(PALETTE[name], dtype=torch.float32).view(3, 1, 1)
