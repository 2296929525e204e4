"""Models that were folders when they were made: their files lie flat, and `layout.json` among them says where each one was.

Imports write it (`environments.mlflow_models.package`), so do the trainings of imported projects; workers read it, and `node.confinement`
shows such a model to them as the folder that it was. Any author may have a file of that name, so nothing in it is believed unchecked.
"""

from __future__ import annotations

import os
from collections.abc import Container

import msgspec

LAYOUT_FILE = "layout.json"
LAYOUT_FORMAT = 1
FOLDER = ".folder"
"""Under what name, beside the flat files, a worker finds the model's own folder."""

MOST_LAYOUT_BYTES = 4 << 20
_LONGEST_PATH, _LONGEST_NAME_BYTES = 1024, 255
_MOST_LEVELS, _MOST_FOLDERS = 32, 10_000
"""Whoever shows a model as folders has to make them, and to remove them again."""


class Layout(msgspec.Struct, frozen=True):
    """`files`: where a file was, relative and with `/`, and its flat name. `modules`: the folder of what is imported, or empty."""

    format: int
    modules: str
    files: dict[str, str]


def read_layout(data: bytes, names: Container[str]) -> Layout | None:
    """What a `layout.json` says, or None where it is none of ours: another format, places outside of the folder, files that are not there.

    Args:
        names: the flat files of the model; each may be named once.
    """
    try:
        layout = msgspec.json.decode(data, type=Layout)
    except msgspec.DecodeError:
        return None
    flat = layout.files.values()
    if layout.format != LAYOUT_FORMAT or not all(map(_is_place, layout.files)) or len(set(flat)) < len(flat):
        return None
    return layout if all(name in names for name in flat) and not _has_many_folders(layout) else None


def _has_many_folders(layout: Layout) -> bool:
    found: set[str] = set()
    for path in layout.files:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found.add(folder)
            folder = folder.rpartition("/")[0]
        if len(found) > _MOST_FOLDERS:
            return True
    return False


def _is_place(path: str) -> bool:
    if len(path) > _LONGEST_PATH or "\0" in path or path.count("/") >= _MOST_LEVELS:
        return False
    return all(part not in ("", ".", "..") and len(os.fsencode(part)) <= _LONGEST_NAME_BYTES for part in path.split("/"))
