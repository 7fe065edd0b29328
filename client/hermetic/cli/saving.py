"""Where a job's images go, and what is said of them: shared by the verbs that wait for a result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import duration, size, to_json, write_json

if TYPE_CHECKING:
    from hermetic import Preview, Result

__all__ = [
    "PREVIEW_SECONDS",
    "check_output",
    "file_names",
    "output_option",
    "preview_option",
    "preview_saver",
    "report",
]

PREVIEW_SECONDS = 1.0
"""Between two previews, where nobody has said otherwise."""

_STDOUT = "-"

output_option = click.option(
    "-o", "--output", metavar="FILE", help="PNG to write; - is stdout. [default: hermetic-JOB.png]"
)


preview_option = click.option(
    "--preview-file", metavar="FILE", help="PNG that always shows how the image looks by now."
)


def check_output(output: str | None, images: int, as_json: bool) -> None:
    """Refuse before a single step what could not be written after the last."""
    if output is None:
        return
    if output == _STDOUT:
        if as_json or images != 1:
            raise click.UsageError("-o - writes one PNG to stdout: one image only, and no --json.")
        return
    _check_png(Path(output))


def _check_png(file: Path) -> None:
    """Refuse a name that no PNG can be written under."""
    if file.suffix.lower() not in (".png", ""):
        raise click.UsageError(f"{file.name} would not be a PNG; name it {file.stem}.png.")
    if file.exists() and not file.is_file():
        # A PNG takes the place of what has its name; a device must not lose its own.
        raise click.UsageError(f"{file} is no regular file; - writes to stdout.")
    if not file.parent.is_dir():
        raise click.UsageError(f"There is no directory {file.parent} to write {file.name} into.")


def preview_saver(file: str | None) -> Callable[[Preview], None] | None:
    """What writes the newest preview to the file; None for no file."""
    if file is None:
        return None
    target = Path(file)
    _check_png(target)
    return _PreviewFile(target)


class _PreviewFile:
    """A file of which the job must not depend: that it cannot be written is said once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._failed = False

    def __call__(self, preview: Preview) -> None:
        from hermetic.png import save_preview

        try:
            save_preview(preview, self._file)
        except OSError as error:
            if not self._failed:
                click.echo(f"hermetic: the preview is not written: {error}", err=True)
            self._failed = True


def report(result: Result, output: str | None, *, quiet: bool, as_json: bool) -> None:
    """Write every image, name the files on stdout, sum up on stderr."""
    files = _save(result, output)
    if as_json:
        write_json(_record(result, files))
    elif files:
        click.echo("\n".join(map(str, files)))
    if not quiet:
        click.echo(_summary(result), err=True)


def _save(result: Result, output: str | None) -> list[Path]:
    """Write every image; the files, in order. None where the one PNG went to stdout."""
    from hermetic.png import save_png

    if output == _STDOUT:
        png = BytesIO()
        save_png(result.images[0], png, result=result)
        sys.stdout.buffer.write(png.getvalue())
        return []
    files = file_names(output, result.job_id, len(result.images))
    for index, (image, file) in enumerate(zip(result.images, files, strict=True)):
        save_png(image, file, result=result, index=index)
    return files


def file_names(output: str | None, job_id: str, images: int) -> list[Path]:
    """The name asked for, or one from the job's id; numbered from 1 where there are several."""
    base = Path(output or f"hermetic-{job_id[:8]}.png")
    if images == 1:
        return [base]
    digits = len(str(images))
    return [base.with_name(f"{base.stem}-{i:0{digits}}{base.suffix}") for i in range(1, images + 1)]


def _record(result: Result, files: list[Path]) -> dict[str, Any]:
    return {
        "job_id": result.job_id,
        "files": [str(file) for file in files],
        "seeds": list(result.seeds),
        "task": to_json(result.task),
        "worker": to_json(result.worker),
        "timings": result.timings,
        "memory": result.memory,
    }


def _summary(result: Result) -> str:
    images = len(result.images)
    shown = [
        f"{name.replace('_', ' ')} {duration(result.timings[name])}"
        for name in ("queued", "switch", "text_encoder", "denoise", "decode", "total")
        if name in result.timings
    ]
    peak = result.memory.get("device_peak", result.memory.get("peak"))
    return (
        f"{images} image{'s' * (images != 1)} by {result.worker.model} "
        f"(process {result.worker.pid}, epoch {result.worker.epoch}, {result.worker.device}): "
        f"{', '.join(shown) or 'no timings'}; peak {size(peak)}"
    )
