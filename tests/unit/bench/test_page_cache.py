"""Files in the page cache: counted, dropped, and never harmed."""

from __future__ import annotations

from pathlib import Path

import _page_cache


def test_what_was_just_read_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights").write_bytes(b"w" * 100_000)
    (tmp_path / "empty").touch()
    _page_cache.fill(tmp_path)
    assert _page_cache.size(tmp_path) == 100_000
    assert _page_cache.cached_share(tmp_path) == 1.0


def test_a_folder_without_files_has_nothing_in_memory(tmp_path: Path) -> None:
    assert _page_cache.cached_share(tmp_path) == 0.0


def test_a_drop_never_loses_what_is_not_yet_on_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"w" * 100_000)
    _page_cache.drop(tmp_path)
    assert 0.0 <= _page_cache.cached_share(tmp_path) <= 1.0
    assert file.read_bytes() == b"w" * 100_000
