"""Bytecode taken over from another environment of this node instead of being compiled again.

Called by the installer before the import probe. uv links the same unpacked wheel into every environment, so a source file
that is the same inode in two environments has the same compiled form; linking that too saves seconds of a deployment and
tens of MB. A `.pyc` names its source's size and time, so Python compiles anew whatever does not fit.
"""

from __future__ import annotations

import os
from pathlib import Path

from millstream_server.environments.venv import site_packages


def share(source: Path, target: Path) -> int:
    """Link into the environment `target` each compiled file of `source` whose source file both share; return how many."""
    old_root, new_root = site_packages(source), site_packages(target)
    if old_root.parent.name != new_root.parent.name:
        return 0  # another Python minor
    linked = 0
    for folder, _, files in os.walk(old_root):
        if os.path.basename(folder) == "__pycache__":
            package = os.path.relpath(os.path.dirname(folder), old_root)
            linked += _share_folder(Path(folder), [name for name in files if name.endswith(".pyc")], new_root / package)
    return linked


def _share_folder(old: Path, names: list[str], package: Path) -> int:
    if not package.is_dir():
        return 0
    new = package / "__pycache__"
    linked = 0
    for name in names:
        module = name.split(".", 1)[0] + ".py"
        if _same_file(old.parent / module, package / module):
            new.mkdir(exist_ok=True)
            try:
                os.link(old / name, new / name)
            except FileExistsError:
                continue  # from an environment asked before
            linked += 1
    return linked


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(one.stat(), other.stat())
    except FileNotFoundError:
        return False
