"""Seeds out of torch generators, without torch: read by their methods, refused where a seed would
not draw what the generator would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from hermetic_wire.errors import InvalidParameter

__all__ = ["GeneratorSeeds"]


class GeneratorSeeds:
    """Remembers which generators were used, because using one here does not advance it."""

    def __init__(self) -> None:
        self._used: WeakKeyDictionary[Any, int] = WeakKeyDictionary()

    def read(self, generator: Any, images: int) -> tuple[int, ...]:
        """The seeds: none for None, one for a generator (the whole batch, as diffusers draws it),
        one per image for a list. Raises InvalidParameter for a generator that was drawn from
        already or that is not the CPU's."""
        if generator is None:
            return ()
        if not isinstance(generator, Sequence):
            return (self._seed(generator),)
        if len(generator) != images:
            raise InvalidParameter(
                f"generator has {len(generator)} generators for {images} images; give one each."
            )
        if len({id(one) for one in generator}) != images:
            raise InvalidParameter(
                "generator has the same generator twice: the second image would go on where the "
                "first one ended. Make one generator per image."
            )
        return tuple(self._seed(one) for one in generator)

    def spend(self, generator: Any) -> None:
        """Marks what a job was submitted with as used."""
        for one in generator if isinstance(generator, Sequence) else [generator]:
            if one is not None:
                self._used[one] = one.initial_seed()

    def _seed(self, generator: Any) -> int:
        try:
            seed = int(generator.initial_seed())
        except AttributeError as error:
            raise InvalidParameter(
                f"generator is a {type(generator).__name__}; a torch.Generator or a list of them "
                "is needed."
            ) from error
        device = str(getattr(generator, "device", "cpu"))
        if device != "cpu":
            raise InvalidParameter(
                f"The generator is on {device}; workers draw their noise on the CPU, where a seed "
                f"gives another picture. Use torch.Generator().manual_seed({seed})."
            )
        if self._used.get(generator) == seed or _drawn_from(generator, seed):
            raise InvalidParameter(
                f"The generator of seed {seed} was used before. Its next picture depends on all it "
                "drew, which its seed cannot tell another process. Make a fresh one for each call: "
                f"torch.Generator().manual_seed({seed})."
            )
        return seed


def _drawn_from(generator: Any, seed: int) -> bool:
    """Whether its state differs from that of a generator just seeded."""
    if not hasattr(generator, "get_state"):
        return False
    fresh = type(generator)()
    fresh.manual_seed(seed)
    return not bool((generator.get_state() == fresh.get_state()).all())
