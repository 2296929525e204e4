"""Trees as pipeline code may leave them: deeper than any path, without permissions, with links that lead out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream_server import trees

NAMES = st.sampled_from(["a", "b", "c"])


def dig(top: Path, levels: int) -> None:
    """Nested folders with a file in the last one; a path to it could not be named."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


def test_folders_deeper_than_a_path_are_removed(tmp_path: Path) -> None:
    """Three thousand levels are 21,000 bytes of path."""
    dig(tmp_path / "top", 3_000)

    assert trees.remove(tmp_path / "top")
    assert not list(tmp_path.iterdir())


def test_deep_folders_are_refused_by_who_walks_them(tmp_path: Path) -> None:
    """With an error that callers expect of a disk."""
    dig(tmp_path / "top", 300)

    with pytest.raises(OSError, match="nested deeper than 100 levels"):
        list(trees.folders(tmp_path / "top"))


def test_modes_and_links_are_no_matter(tmp_path: Path) -> None:
    """Folders that nobody may write or list go; what a link leads to stays."""
    kept, top = tmp_path / "kept", tmp_path / "top"
    (kept / "of others").mkdir(parents=True)
    (top / "a" / "b" / "c").mkdir(parents=True)
    (top / "a" / "link").symlink_to(kept)
    (top / "a" / "b" / "file").touch()
    for folder in (top / "a" / "b" / "c", top / "a" / "b", top / "a", top):
        folder.chmod(0o000)

    assert trees.remove(top)
    assert list(tmp_path.iterdir()) == [kept]
    assert (kept / "of others").is_dir()
    (tmp_path / "link").symlink_to(kept)
    assert trees.remove(tmp_path / "link")
    assert trees.remove(tmp_path / "link")
    assert (kept / "of others").is_dir()


@given(st.lists(st.lists(NAMES, min_size=1, max_size=5), max_size=12))
def test_any_tree_is_walked_whole_and_removed(tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]) -> None:
    """Every folder is told once, the outer ones first."""
    top = tmp_path_factory.mktemp("any")
    for parts in paths:
        top.joinpath(*parts).mkdir(parents=True, exist_ok=True)

    told = list(trees.folders(top))

    assert sorted(told) == sorted({str(top), *(str(path) for path in top.rglob("*"))})
    assert all(told.index(os.path.dirname(folder)) < told.index(folder) for folder in told[1:])
    assert trees.remove(top)
    assert not top.exists()
