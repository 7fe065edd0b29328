"""What is said of the template, the process that workers are forked from. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from hermetic_wire.messages import TemplateStatus

from .output import duration, size

__all__ = ["facts", "skeletons", "state"]

_READY = "ready"


def state(found: TemplateStatus) -> str:
    """Its state in one line, with the reason where it is not used."""
    match found.state:
        case "off":
            return found.reason or 'off: start_method = "exec"'
        case "starting":
            return f"starting{_pid(found)}"
        case "serving":
            return f"serving{_pid(found)}"
        case "refused":
            return f"refused, so every worker is a new interpreter: {found.reason}"
        case "waiting":
            return f"to be started again: {found.reason}"


def facts(found: TemplateStatus) -> Iterator[tuple[str, str]]:
    """Names and values of what else there is to know; the skeletons that are not ready last."""
    yield "template", state(found)
    if found.state == "serving":
        yield "its forks", f"{found.forks} workers so far"
        yield "its memory", f"{size(found.private_bytes)} (not shared with its workers)"
    if found.timings:
        stages = (f"{stage} {duration(seconds)}" for stage, seconds in found.timings.items())
        yield "its start", f"{duration(sum(found.timings.values()))} ({', '.join(stages)})"
    if found.skeletons:
        yield "skeletons", skeletons(found)
        for name, why in sorted(found.skeletons.items()):
            if why != _READY:
                yield "", f"{name}: {why}"


def skeletons(found: TemplateStatus) -> str:
    """How many of the models it has prepared."""
    ready = sum(one == _READY for one in found.skeletons.values())
    return f"{ready} of {len(found.skeletons)} ready"


def _pid(found: TemplateStatus) -> str:
    return f", pid {found.pid}" if found.pid else ""
