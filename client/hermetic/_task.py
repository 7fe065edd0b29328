"""The arguments of `generate` as a task, refused here where no daemon is needed to refuse them.

What depends on the model (its sizes, its defaults, its extra parameters) is the daemon's to judge.
"""

from __future__ import annotations

import math
import operator
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import SupportsFloat, SupportsIndex, TypeAlias

from hermetic_wire.codec import MAX_FRAMES
from hermetic_wire.errors import InvalidParameter
from hermetic_wire.generation import Parameter, TextToImage

__all__ = ["MAX_IMAGES", "Seed", "checked_job_id", "text_to_image"]

Seed: TypeAlias = int | Sequence[int] | None

MAX_IMAGES = MAX_FRAMES - 1
"""Images of one job: each is one raw frame of its result."""
_SEEDS = 1 << 64
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def checked_job_id(job_id: str | None) -> str:
    """The id, or a new random one for None. Raises InvalidParameter for one of the wrong form."""
    if job_id is None:
        return secrets.token_hex(16)
    if not _JOB_ID.fullmatch(job_id):
        raise InvalidParameter(
            f"job_id is {job_id!r}; it has 1 to 64 letters, digits, hyphens and underscores."
        )
    return job_id


def text_to_image(
    prompt: str | Sequence[str],
    *,
    negative_prompt: str | Sequence[str] | None = None,
    width: int | None = None,
    height: int | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    seed: Seed = None,
    n: int = 1,
    extra: Mapping[str, Parameter | None] | None = None,
) -> TextToImage:
    """The task. Sizes are pixels; `n` is images per prompt; an `extra` of None is left out.

    Seeds: None leaves them to the daemon; one number is the first image's, each further image has
    the next one; a sequence has one per image. Raises InvalidParameter.
    """
    prompts = _texts("prompt", prompt)
    images_per_prompt = _positive("n", n)
    count = len(prompts) * images_per_prompt
    if count > MAX_IMAGES:
        raise InvalidParameter(f"{count} images were asked for; one job makes {MAX_IMAGES}.")
    return TextToImage(
        prompts=prompts,
        negative_prompts=_negative_prompts(negative_prompt, len(prompts)),
        images_per_prompt=images_per_prompt,
        width=None if width is None else _positive("width", width),
        height=None if height is None else _positive("height", height),
        steps=None if steps is None else _positive("steps", steps),
        guidance=None if guidance is None else _finite("guidance", guidance),
        seeds=_seeds(seed, count),
        extra=_extra(extra or {}),
    )


def _texts(name: str, given: str | Sequence[str]) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    if not texts:
        raise InvalidParameter(f"{name} is empty; give a text or a list of texts.")
    for text in texts:
        if not isinstance(text, str):
            raise InvalidParameter(f"{name} has {text!r}; a text or a list of texts is needed.")
    return texts


def _negative_prompts(given: str | Sequence[str] | None, prompts: int) -> tuple[str, ...]:
    if given is None:
        return ()
    texts = _texts("negative_prompt", given)
    if len(texts) not in (1, prompts):
        raise InvalidParameter(
            f"negative_prompt has {len(texts)} texts for {prompts} prompts; give one for all of "
            "them or one per prompt."
        )
    return texts


def _positive(name: str, given: SupportsIndex) -> int:
    number = _whole(name, given)
    if number < 1:
        raise InvalidParameter(f"{name} is {number}; it is at least 1.")
    return number


def _whole(name: str, given: SupportsIndex) -> int:
    """Also takes the integers of array libraries, which are no `int`."""
    if not isinstance(given, bool):
        try:
            return operator.index(given)
        except TypeError:
            pass
    raise InvalidParameter(f"{name} is {given!r}; a whole number is needed.")


def _finite(name: str, given: SupportsFloat) -> float:
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidParameter(f"{name} is {given!r}; a finite number is needed.")
    return number


def _seeds(given: Seed, count: int) -> tuple[int, ...]:
    if given is None:
        return ()
    if isinstance(given, Sequence):
        seeds = tuple(_whole("seed", one) for one in given)
        if len(seeds) != count:
            raise InvalidParameter(
                f"seed has {len(seeds)} numbers for {count} images; give one each."
            )
    else:
        first = _whole("seed", given)
        seeds = tuple(range(first, first + count))
    for seed in seeds:
        if not 0 <= seed < _SEEDS:
            raise InvalidParameter(f"A seed is {seed}; it is at least 0 and below 2**64.")
    return seeds


def _extra(given: Mapping[str, Parameter | None]) -> dict[str, Parameter]:
    extra = {name: value for name, value in given.items() if value is not None}
    for name, value in extra.items():
        if not isinstance(value, (bool, int, float, str)):
            raise InvalidParameter(
                f"{name} is {value!r}; a further parameter is a bool, a number or a text."
            )
    return extra
