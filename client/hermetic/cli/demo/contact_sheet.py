"""The demo's pictures on one sheet: a row per round, a column per prompt, switches between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Row", "contact_sheet"]

_PAPER = (250, 249, 246)
_INK = (32, 33, 36)
_PALE_INK = (112, 114, 120)
_LINE = (222, 220, 214)
_ACCENTS = ((38, 98, 180), (176, 92, 18), (46, 125, 80), (130, 60, 150))
"""A colour per model, in order of appearance."""

_CELL = 176
_GAP = 16
_MARGIN = 40
_LABEL = 236
_SWITCH = 44
"""Height of the strip between two rows."""
_TITLE = 30
_TEXT = 19
_SMALL = 15
_LEADING = 1.35
"""Distance of two baselines, in font sizes."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Row:
    """One round."""

    model: str
    notes: Sequence[str]
    """Small lines under the model's name."""
    images: Sequence[Image.Image]
    verdict: str = ""
    """What the row proves, in the model's colour."""
    switch: str = ""
    """What happened before this row; nothing before the first."""


def contact_sheet(
    title: str, subtitle: str, prompts: Sequence[str], rows: Sequence[Row]
) -> Image.Image:
    """The sheet. All images are shown at one size, however large they are."""
    return _Sheet(title, subtitle, prompts, rows).drawn()


class _Sheet:
    def __init__(
        self, title: str, subtitle: str, prompts: Sequence[str], rows: Sequence[Row]
    ) -> None:
        self._title = title
        self._subtitle = subtitle
        self._rows = rows
        self._text = ImageFont.load_default(_TEXT)
        self._small = ImageFont.load_default(_SMALL)
        self._heads = [_wrapped(prompt, self._small, _CELL) for prompt in prompts]
        lines = max(len(head) for head in self._heads)
        self._head_bottom = _MARGIN + _TITLE * 3 + lines * _SMALL * _LEADING + _GAP
        models = list(dict.fromkeys(row.model for row in rows))
        self._accents = {m: _ACCENTS[i % len(_ACCENTS)] for i, m in enumerate(models)}
        width = _MARGIN * 2 + _LABEL + len(prompts) * (_CELL + _GAP) - _GAP
        height = self._top(len(rows)) - _SWITCH + _MARGIN
        self._sheet = Image.new("RGB", (width, int(height)), _PAPER)
        self._draw = ImageDraw.Draw(self._sheet)

    def drawn(self) -> Image.Image:
        title = ImageFont.load_default(_TITLE)
        self._draw.text((_MARGIN, _MARGIN - 6), self._title, _INK, title)
        under = (_MARGIN, _MARGIN + _TITLE * _LEADING)
        self._draw.text(under, self._subtitle, _PALE_INK, self._text)
        for column, head in enumerate(self._heads):
            # Headings stand on the pictures, however many lines each has.
            top = self._head_bottom - _GAP / 2 - len(head) * _SMALL * _LEADING
            self._lines((self._left(column), top), head, _PALE_INK)
        for number, row in enumerate(self._rows):
            self._row(number, row)
        return self._sheet

    def _row(self, number: int, row: Row) -> None:
        top = self._top(number)
        if row.switch:
            self._switch(top - _SWITCH / 2, row.switch)
        accent = self._accents[row.model]
        bar = (_MARGIN, top, _MARGIN + 5, top + _CELL)
        self._draw.rounded_rectangle(bar, radius=2, fill=accent)
        left = _MARGIN + 20
        self._draw.text((left, top + 2), row.model, accent, self._text)
        self._lines((left, top + 2 + _TEXT * _LEADING + 4), row.notes, _PALE_INK)
        bottom = (left, top + _CELL - 2)
        self._draw.text(bottom, row.verdict, accent, self._small, anchor="ls")
        for column, image in enumerate(row.images):
            self._picture((int(self._left(column)), int(top)), image)

    def _picture(self, at: tuple[int, int], image: Image.Image) -> None:
        shown = image.resize((_CELL, _CELL), Image.Resampling.LANCZOS)
        self._sheet.paste(shown, at)
        frame = (at[0] - 1, at[1] - 1, at[0] + _CELL, at[1] + _CELL)
        self._draw.rectangle(frame, outline=_LINE)

    def _switch(self, middle: float, words: str) -> None:
        """A rule across the sheet, interrupted by what happened there."""
        right = self._sheet.width - _MARGIN
        start = _MARGIN + _LABEL
        self._draw.line((_MARGIN, middle, right, middle), _LINE, 1)
        length = self._draw.textlength(words, self._small)
        self._draw.rectangle((start - 8, middle - 12, start + length + 8, middle + 12), _PAPER)
        self._draw.text((start, middle), words, _INK, self._small, anchor="lm")

    def _lines(
        self, at: tuple[float, float], lines: Sequence[str], ink: tuple[int, int, int]
    ) -> None:
        for number, line in enumerate(lines):
            top = at[1] + number * _SMALL * _LEADING
            self._draw.text((at[0], top), line, ink, self._small)

    def _left(self, column: int) -> float:
        return _MARGIN + _LABEL + column * (_CELL + _GAP)

    def _top(self, row: int) -> float:
        return self._head_bottom + row * (_CELL + _SWITCH)


def _wrapped(text: str, font: Font, width: float) -> list[str]:
    """The text in lines that are no wider than `width`; a single long word may be."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
