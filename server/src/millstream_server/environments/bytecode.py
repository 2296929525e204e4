"""Bytecode taken over from another environment on this machine instead of being compiled again.

Called by the installer before the import probe. uv links the same unpacked wheel into every environment, so a source file
that is the same inode in two environments has the same compiled form; linking that too saves seconds of a deployment and
tens of MB. A `.pyc` names its source's size and time, so Python compiles anew whatever does not fit; and because nothing depends on
it, an environment that is removed meanwhile, or whose files may not be linked, is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from millstream_server.core.errors import Invalid
from millstream_server.environments.venv import site_packages


def share(sources: Sequence[Path], target: Path) -> int:
    """Link into the environment `target` each compiled file of other environments whose source file it shares.

    Walking an environment costs up to half a second, so the one with most distributions in common is asked first, and others
    only for distributions that none before them had. One that gives nothing counts as having none: a build that has not
    probed yet, or files of another cache, which are the same text and not the same file.

    Returns:
        How many files were linked.
    """
    wanted = _distributions(target)
    candidates = [(wanted & _distributions(source), source) for source in sources if source != target]
    linked = 0
    covered: set[str] = set()
    for common, source in sorted(candidates, key=lambda each: len(each[0]), reverse=True):
        if common - covered and (given := _share_from(source, target)):
            covered |= common
            linked += given
    return linked


def _distributions(prefix: Path) -> set[str]:
    """Name and version of what is installed, and for which Python minor; empty where the environment is gone."""
    try:
        root = site_packages(prefix)
        return {f"{root.parent.name}/{name}" for name in os.listdir(root) if name.endswith(".dist-info")}
    except (Invalid, FileNotFoundError):
        return set()


def _share_from(source: Path, target: Path) -> int:
    try:
        old_root, new_root = site_packages(source), site_packages(target)
    except Invalid:
        return 0  # removed since it was listed
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
            except OSError:
                continue  # there already, from an environment asked before; or gone, another user's, linked too often
            linked += 1
    return linked


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(one.stat(), other.stat())
    except FileNotFoundError:
        return False
