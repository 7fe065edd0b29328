"""What a killed app leaves for its successor: whole lines, and nothing that it did not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from _chaos_journal import End, Entry, History, Journal, Tail

DONE = End(state="succeeded", digest="d")


def test_a_successor_knows_what_was_done(tmp_path: Path) -> None:
    first = Journal(tmp_path / "journal")
    first.write("a", "asked")
    first.write("a", "accepted")
    first.write("a", "ended", DONE)
    first.write("b", "asked")
    first.close()
    second = Journal(tmp_path / "journal")
    second.write("b", "cancel")
    second.close()
    assert second.history("a").ends == [DONE]
    assert second.history("b").cancelled
    assert not second.history("b").accepted
    assert second.history("never asked") == History()


def test_half_a_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    tail = Tail(path)
    assert list(tail.read()) == []
    path.write_bytes(b'{"job":"a","seen":"asked"}\n{"job":"a",')
    assert [entry.seen for entry in tail.read()] == ["asked"]
    with path.open("ab") as file:
        file.write(b'"seen":"accepted"}\n')
    assert [entry.seen for entry in tail.read()] == ["accepted"]
    assert list(tail.read()) == []


def test_an_end_is_the_same_whatever_its_words() -> None:
    assert End(state="failed", code="quarantined", message="twice").same(
        End(state="failed", code="quarantined", message="two times")
    )
    assert not DONE.same(End(state="succeeded", digest="another picture"))
    assert not DONE.same(End(state="cancelled", code="cancelled"))


def test_an_end_without_its_facts_is_no_line() -> None:
    with pytest.raises(ValueError, match="without its end"):
        History().add(Entry(job="a", seen="ended"))
