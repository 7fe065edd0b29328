"""Pauses of models whose workers crash: each twice as long as the one before. Pure: no clock."""

from __future__ import annotations

from dataclasses import dataclass

from hermetic_wire.errors import HermeticError

__all__ = ["Backoff"]


@dataclass
class _Pause:
    crashes: int
    """In a row: no job of the model has succeeded since."""
    until: float
    error: HermeticError


class Backoff:
    """Whose workers may not be started yet; all times in seconds, `now` of one clock."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._pauses: dict[str, _Pause] = {}
        self._paused: set[str] = set()

    def __contains__(self, model: str) -> bool:
        """Whether its pause has not been ended by `over` or `recover`."""
        return model in self._paused

    def crash(self, model: str, error: HermeticError, now: float) -> float:
        """Its worker died while it loaded or ran a job; returns the length of the pause."""
        before = self._pauses.get(model)
        crashes = before.crashes + 1 if before else 1
        # A model that crashes for days must not overflow the power.
        seconds = min(self._longest, self._first * 2.0 ** min(crashes - 1, 64))
        self._pauses[model] = _Pause(crashes, now + seconds, error)
        self._paused.add(model)
        return seconds

    def recover(self, model: str) -> None:
        """A job of it has succeeded: the next crash is a first one."""
        self._pauses.pop(model, None)
        self._paused.discard(model)

    def over(self, now: float) -> list[str]:
        """The models whose pause has ended since this was last asked."""
        ended = [model for model in self._paused if self._pauses[model].until <= now]
        self._paused.difference_update(ended)
        return ended

    @property
    def wake_at(self) -> float | None:
        """When the next pause ends."""
        return min((self._pauses[model].until for model in self._paused), default=None)

    def seconds_left(self, model: str, now: float) -> float:
        """Until its worker may be started; 0 where it may be now."""
        if model not in self._paused:
            return 0.0
        return max(0.0, self._pauses[model].until - now)

    def pauses(self, now: float) -> dict[str, tuple[float, HermeticError]]:
        """By model, the seconds left and what its last worker died of."""
        return {
            model: (self.seconds_left(model, now), self._pauses[model].error)
            for model in sorted(self._paused)
        }
