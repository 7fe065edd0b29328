"""How long a step may take before its worker counts as hung: learnt per model from its steps.

Steps of one model and size take about as long as each other. What takes many times longer than any
before hangs, and a fixed limit long enough for the slowest model would find it far too late.
"""

from __future__ import annotations

from hermetic_wire.generation import Task, TextToImage

__all__ = ["Heartbeats"]

FACTOR = 20.0
"""A step may take so many times as long as the longest that was measured for its model."""
FLOOR_SECONDS = 10.0
"""Below this nobody is suspected: other processes want the machine, too."""
ENOUGH = 5
"""Steps that have to be measured first."""


class Heartbeats:
    """Longest steps by model, in seconds per image pixel.

    Work grows at least as fast as the pixels, so the time of a small image bounds that of a large
    one only roughly: that is what `FACTOR` has room for.
    """

    def __init__(self, limit_seconds: float) -> None:
        """`limit_seconds` bounds everything, also what nothing is known of."""
        self._limit = limit_seconds
        self._longest: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def learn(self, model: str, task: Task, seconds: float) -> None:
        """A step that is neither the first of its job nor includes the decoding took so long."""
        per_pixel = seconds / _pixels(task)
        self._longest[model] = max(self._longest.get(model, 0.0), per_pixel)
        self._counts[model] = self._counts.get(model, 0) + 1

    def limit(self, model: str, task: Task, within: bool) -> float:
        """Seconds until the next message is due; `within` where that is a step after a step: the
        first may compile, the last decodes."""
        if not within or self._counts.get(model, 0) < ENOUGH:
            return self._limit
        expected = self._longest[model] * _pixels(task)
        return min(self._limit, max(FLOOR_SECONDS, FACTOR * expected))


def _pixels(task: Task) -> int:
    if not isinstance(task, TextToImage):
        return 1
    return max(1, task.count * (task.width or 1) * (task.height or 1))
