"""What a `layout.json` may say: only places inside of the model's folder, and only files that are there."""

from __future__ import annotations

import json
import os

from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.folders import read_layout

NAMES = [f"{number:05d}-file" for number in range(4)]
PARTS = st.sampled_from(["a", "b", "MLmodel", "", ".", "..", "/", "c\\d", "e\0f", "long" * 70])


@given(st.dictionaries(st.lists(PARTS, min_size=1, max_size=4).map("/".join), st.sampled_from([*NAMES, "missing", "../out"]), max_size=3))
def test_what_is_read_stays_inside_and_is_there(files: dict[str, str]) -> None:
    """Of any layout: it is refused, or each of its places is below the folder that it is put into, and each of its files is the model's."""
    layout = read_layout(json.dumps({"format": 1, "modules": "", "files": files}).encode(), NAMES)

    if layout is not None:
        assert all(os.path.normpath(f"/model/{path}") == f"/model/{path}" for path in layout.files)
        assert set(layout.files.values()) <= set(NAMES)


@given(st.lists(st.sampled_from(["a", "b.c", "MLmodel", "c\\d", "..."]), min_size=1, max_size=4).map("/".join))
def test_what_stays_inside_is_read(path: str) -> None:
    """The other way round: nothing that an import writes is refused."""
    layout = read_layout(json.dumps({"format": 1, "modules": "code", "files": {path: NAMES[0]}}).encode(), NAMES)

    assert layout is not None
    assert (layout.modules, layout.files) == ("code", {path: NAMES[0]})


def test_a_file_of_that_name_that_an_author_wrote_is_none_of_ours() -> None:
    """Another format, another shape, no JSON at all: the model is shown flat, as its author knows it."""
    good = {"format": 1, "modules": "", "files": {"a/b": NAMES[0]}}
    assert read_layout(json.dumps(good).encode(), NAMES) is not None

    for other in ({**good, "format": 2}, {**good, "files": [NAMES[0]]}, {"width": 3}, ["a"]):
        assert read_layout(json.dumps(other).encode(), NAMES) is None
    assert read_layout(b"\xff not JSON", NAMES) is None


def test_a_layout_of_more_folders_than_a_model_has_is_none() -> None:
    """Whoever shows it would have to make them: as many as the file's four megabytes can name."""
    names = [f"{number:05d}-file" for number in range(400)]
    files = {f"{number}/" + "a/" * 28 + "file": name for number, name in enumerate(names)}
    few = dict(list(files.items())[:300])

    assert read_layout(json.dumps({"format": 1, "modules": "", "files": few}).encode(), names) is not None
    assert read_layout(json.dumps({"format": 1, "modules": "", "files": files}).encode(), names) is None
    assert read_layout(json.dumps({"format": 1, "modules": "", "files": {"a/" * 40 + "file": names[0]}}).encode(), names) is None
