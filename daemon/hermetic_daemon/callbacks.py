"""To call what others have asked for, one after the other: who raises keeps no other from its turn.

The loop does the same for its callbacks, at the price of a turn of the loop for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVarTuple

__all__ = ["call"]

Arguments = TypeVarTuple("Arguments")


def call(
    loop: asyncio.AbstractEventLoop,
    callback: Callable[[*Arguments], object],
    *arguments: *Arguments,
) -> None:
    """Call it now; what it raises is told to the loop's exception handler."""
    try:
        callback(*arguments)
    except Exception as error:  # noqa: BLE001  # as the loop does
        context = {"message": f"Exception in callback {callback!r}", "exception": error}
        loop.call_exception_handler(context)
