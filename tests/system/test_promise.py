"""The pristine promise: what a worker did cannot reach the template, nor any worker after it.

Twenty workers poison whatever a process can reach; then the template's memory is read from outside.
And the three ways in which a worker can come into being draw the same bits.
"""

from __future__ import annotations

import json
import mmap
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hermetic import Client, Result
from hermetic_wire.generation import TextToImage
from hermetic_wire.messages import TemplateStatus, WorkerRow
from hermetic_wire.worker import ModelSpec
from support.daemon import FAKES, RunningDaemon
from support.processes import gone, until
from support.template import PlayedDaemon, adopting

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

POISONED_WORKERS = 20
CHANGED_PAGES_BOUND = 0.01
"""Of the template's writable pages. Measured: 78 of 71,446."""
SPEC = ModelSpec(name="poisonous", architecture="poisonous")
TASK = TextToImage(prompts=("",), width=8, height=8, steps=1, guidance=1.0, seeds=(0,))
PRESENT, SWAPPED = 1 << 63, 1 << 62  # of an entry in /proc/PID/pagemap

PROMPT = "a red circle"
SETTINGS: dict[str, Any] = {"steps": 2, "guidance": 7.5, "width": 64, "height": 64}
PATIENCE = 60.0


def pages(pid: int) -> Iterator[tuple[int, bytes]]:
    """Address and content of every page that the process may write to and has for itself."""
    size = mmap.PAGESIZE
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            span, permissions, *_ = line.split(maxsplit=2)
            if not (permissions[1] == "w" and permissions[3] == "p"):
                continue
            begin, end = (int(address, 16) for address in span.split("-"))
            pagemap.seek(begin // size * 8)
            entries = struct.iter_unpack("Q", pagemap.read((end - begin) // size * 8))
            for number, (entry,) in enumerate(entries):
                if entry & (PRESENT | SWAPPED):
                    memory.seek(begin + number * size)
                    yield begin + number * size, memory.read(size)


def digest(pid: int) -> dict[int, int]:
    """The hash of each page by its address."""
    return {address: hash(content) for address, content in pages(pid)}


def found_in(pid: int, canaries: list[bytes]) -> int:
    """How many pages hold one of the canaries."""
    return sum(any(canary in content for canary in canaries) for _, content in pages(pid))


@dataclass
class Story:
    """What was seen when twenty workers had been poisoned."""

    before: dict[int, int]
    reports: list[dict[str, Any]] = field(default_factory=list)
    """Each worker's view at its first job."""
    own_poison: dict[str, Any] = field(default_factory=dict)
    """The first worker's view at its second job."""
    canaries: list[bytes] = field(default_factory=list)
    in_the_last_worker: int = 0
    in_the_template: int = 0
    in_the_spare: int = 0
    after: dict[int, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """One template with all its imports, for all that is asked about it."""
    program = (str(FAKES / "poisonous_template.py"),)
    with adopting(), PlayedDaemon(tmp_path_factory.mktemp("t"), program, (SPEC,)) as daemon:
        daemon.serving()
        daemon.spare()  # a fork changes pages too: also before the first look
        told = Story(digest(daemon.pid))
        for epoch in range(1, POISONED_WORKERS + 1):
            worker = daemon.fork(epoch)
            daemon.load(epoch, SPEC)
            told.reports.append(report(daemon, epoch))
            if epoch == 1:
                told.own_poison = report(daemon, epoch)
            told.canaries.append(bytes.fromhex(told.reports[-1]["canary"]))
            if epoch == POISONED_WORKERS:
                told.in_the_last_worker = found_in(worker.pid, told.canaries[-1:])
            worker.end()
        told.in_the_spare = found_in(daemon.spare(), told.canaries)
        told.in_the_template = found_in(daemon.pid, told.canaries)
        told.after = digest(daemon.pid)
        yield told


def report(daemon: PlayedDaemon, epoch: int) -> dict[str, Any]:
    (frame,) = daemon.run(epoch, TASK)
    found: dict[str, Any] = json.loads(frame)
    return found


def test_the_poison_works_in_the_worker_that_took_it(story: Story) -> None:
    """Or all that follows would prove nothing."""
    seen = story.own_poison
    assert seen["patched"]
    assert seen["variable"] == story.canaries[0].hex()
    assert seen["stash"] > 0
    assert seen["random"] == random.Random(4711).random()
    assert story.in_the_last_worker > 0


def test_no_worker_sees_what_another_did(story: Story) -> None:
    views = [(seen["patched"], seen["variable"], seen["stash"]) for seen in story.reports]
    assert views == [(False, None, 0)] * POISONED_WORKERS


@pytest.mark.parametrize("generator", ["torch", "numpy", "random"])
def test_no_two_workers_draw_the_same_numbers(generator: str, story: Story) -> None:
    """Children of one process would share the state of its generators."""
    drawn = {seen[generator] for seen in story.reports}
    assert len(drawn) == POISONED_WORKERS


def test_no_secret_of_a_job_is_in_the_template_or_in_the_next_worker_to_be(story: Story) -> None:
    assert (story.in_the_template, story.in_the_spare) == (0, 0)


def test_twenty_poisoned_workers_hardly_change_a_page_of_the_template(story: Story) -> None:
    before, after = story.before, story.after
    changed = [address for address in after if before.get(address) != after[address]]
    gone_pages = before.keys() - after.keys()
    figures = f"{len(changed)} of {len(after):,} pages changed, {len(gone_pages)} are gone"
    print(figures)  # noqa: T201  # the figure itself is asked for
    assert len(after) > 10_000, "the scan has not seen the template's memory"
    assert len(changed) + len(gone_pages) < CHANGED_PAGES_BOUND * len(after), figures


# Three ways to come into being.


def draw(client: Client, model: str) -> Result:
    return client.generate(PROMPT, model=model, seed=11, **SETTINGS)


def config(tiny: dict[str, Path], standby: str) -> str:
    models = [f'[models.{name}]\npath = "{path}"\n' for name, path in tiny.items()]
    return f'[worker]\nstandby = "{standby}"\n' + "".join(models)


def template(client: Client) -> TemplateStatus:
    found = client.status().template
    assert found is not None
    return found


def template_serves(client: Client) -> bool:
    return template(client).state == "serving"


def standbys(client: Client) -> list[WorkerRow]:
    return [row for row in client.workers() if row.state == "standby"]


@pytest.fixture(scope="module")
def drawn_by_exec(tiny: dict[str, Path]) -> dict[str, bytes]:
    """The reference: new interpreters, `from_pretrained`."""
    with RunningDaemon(config(tiny, "off")) as daemon, daemon.client() as client:
        found = {}
        for model in tiny:
            found[model] = bytes(draw(client, model).pixels[0])
            (row,) = client.workers()
            assert row.start_method == "exec"
            assert set(row.loaded_by.values()) == {"from_pretrained"}
        return found


def test_a_forked_worker_draws_the_bits_of_a_new_interpreter(
    tiny: dict[str, Path], drawn_by_exec: dict[str, bytes]
) -> None:
    """Also one that has outlived its template, and one of the template that followed."""
    with (
        RunningDaemon(config(tiny, "off"), start_method="fork") as daemon,
        daemon.client() as client,
    ):
        until(lambda: template_serves(client), PATIENCE, "the template serves")
        for model in (*tiny, *tiny):
            assert bytes(draw(client, model).pixels[0]) == drawn_by_exec[model]
            is_forked(client)
        (worker,) = client.workers()
        killed = template(client).pid
        next(one for one in daemon.processes() if one.pid == killed).kill()
        until(lambda: gone(killed), PATIENCE, "the template is dead")
        again = draw(client, worker.model)
        assert again.worker is not None
        assert again.worker.pid == worker.pid
        assert bytes(again.pixels[0]) == drawn_by_exec[worker.model]
        until(lambda: template_serves(client), PATIENCE, "another template serves")
        assert template(client).pid != killed
        other = next(name for name in tiny if name != worker.model)
        assert bytes(draw(client, other).pixels[0]) == drawn_by_exec[other]
        is_forked(client)


def is_forked(client: Client) -> None:
    """The one worker there is was forked, and has what its template had outlined."""
    (row,) = client.workers()
    assert row.start_method == "fork"
    assert set(row.loaded_by.values()) == {"skeleton"}


def test_a_standby_draws_the_bits_of_a_new_interpreter(
    tiny: dict[str, Path], drawn_by_exec: dict[str, bytes]
) -> None:
    """It has computed before it knew its model; the result's epoch says that it was the standby."""
    with (
        RunningDaemon(config(tiny, "on"), start_method="fork") as daemon,
        daemon.client() as client,
    ):
        for model in tiny:
            until(lambda: bool(standbys(client)), PATIENCE, "a standby waits")
            (standby,) = standbys(client)
            result = draw(client, model)
            assert result.worker is not None
            assert (result.worker.epoch, result.worker.pid) == (standby.epoch, standby.pid)
            assert bytes(result.pixels[0]) == drawn_by_exec[model]


def test_a_killed_daemon_takes_template_spare_standby_and_worker_along(
    tiny: dict[str, Path],
) -> None:
    with RunningDaemon(config(tiny, "on"), start_method="fork") as daemon:
        with daemon.client() as client:
            draw(client, "tiny-sd15")
            until(lambda: bool(standbys(client)), PATIENCE, "a standby waits")
        titles = sorted(process.name() for process in daemon.processes())
        pids = [process.pid for process in daemon.processes()]
        assert titles == ["hermetic-spare", "hermetic-templ", *["hermetic-worker"] * 2]
        daemon.kill()
        until(lambda: all(map(gone, pids)), PATIENCE, "they die with their daemon")
