"""What one look of the doctor found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Finding", "Verdict"]

Verdict: TypeAlias = Literal["ok", "warn", "fail"]
"""`warn` is what some users can live with; `fail` is what nobody can."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    subject: str
    verdict: Verdict
    seen: str
    remedy: str = ""
    """What to do about it; nothing where all is well."""
