"""The files of a folder that somebody gives us, and the YAML in them: bounded, without links, and never more than text.

Called by the readers of models and of projects beside this module.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import yaml

from millstream_server.core.errors import Invalid

MOST_FILES = 10_000
MOST_YAML_BYTES = 4 << 20
MOST_YAML_VALUES = 100_000
"""An MLmodel of a thousand columns has one value for all of them, since its signature is one text; ten aliases of ten have ten billion."""
MOST_DEPTH = 50

_NOT_TAKEN = frozenset({"__pycache__", ".git", ".ipynb_checkpoints", "mlruns"})
"""Folders that programs leave beside what people made."""


def files_of(folder: Path, code: str) -> tuple[str, ...]:
    """Every file below a folder, as relative paths with slashes, sorted; what programs leave (`__pycache__`) is passed over.

    Args:
        code: of the error, such as bad_mlflow_model.

    Raises:
        Invalid: the code, where it holds a link, a device, a name that cannot be printed, or too many files.
    """
    found: list[str] = []
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            with os.scandir(folder / below) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise Invalid(code, f"{folder / below} cannot be read: {error.strerror}", where=str(folder)) from None
        for entry in listed:
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in _NOT_TAKEN:
                    waiting.append(_printable(folder, path, code))
                continue
            _check_plain(folder, path, entry.stat(follow_symlinks=False).st_mode, code)
            found.append(_printable(folder, path, code))
        if len(found) + len(waiting) > MOST_FILES:
            raise Invalid(code, f"{folder} holds more than {MOST_FILES} files and folders", where=str(folder))
    return tuple(sorted(found))


def read_yaml(folder: Path, name: str, code: str) -> dict[str, Any]:
    """Read a YAML file whose top is a mapping, as plain values.

    Raises:
        Invalid: the code, where it is too large, is not YAML, repeats itself by aliases beyond all measure, or is no mapping.
    """
    path = folder / name
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            data = file.read(MOST_YAML_BYTES + 1)
        if len(data) > MOST_YAML_BYTES:
            raise Invalid(code, f"{name} is larger than {MOST_YAML_BYTES} bytes", where=str(path))
        loader = yaml.SafeLoader(data.decode("utf-8"))
        try:
            node = loader.get_single_node()
            if node is not None:
                _measure(node, {}, ())
            value = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except OSError as error:
        raise Invalid(code, f"{name} cannot be read: {error.strerror}", where=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Invalid(code, f"{name} is not YAML that can be read: {_first_lines(error)}", where=str(path)) from None
    if not isinstance(value, dict):
        raise Invalid(code, f"{name} holds {_spoken(value)}; expected names with values", where=str(path))
    return value


def _measure(node: yaml.Node, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """How many values a document is when every alias is written out.

    Raises:
        ValueError: too many, too deep, or one that holds itself.
    """
    if id(node) in above:
        raise ValueError("a value holds itself")
    if len(above) > MOST_DEPTH:
        raise ValueError(f"its values are nested more than {MOST_DEPTH} deep")
    if id(node) in sizes:
        return sizes[id(node)]
    inner: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        inner = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        inner = [each for pair in node.value for each in pair]
    size = 1 + sum(_measure(each, sizes, (*above, id(node))) for each in inner)
    if size > MOST_YAML_VALUES:
        raise ValueError(f"it is more than {MOST_YAML_VALUES} values when its aliases are written out")
    sizes[id(node)] = size
    return size


def _check_plain(folder: Path, path: str, mode: int, code: str) -> None:
    match stat.S_IFMT(mode):
        case stat.S_IFREG:
            return
        case stat.S_IFLNK:
            wrong = "a symbolic link"
        case _:
            wrong = "a device, pipe or socket"
    raise Invalid(
        code, f"{path} is {wrong}; expected regular files only", where=str(folder), mend="copy the folder with plain files: cp -rL"
    )


def _printable(folder: Path, path: str, code: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Invalid(code, f"the name {path!r} is not UTF-8", where=str(folder)) from None
    if not path.isprintable():
        raise Invalid(code, f"the name {path!r} has characters that cannot be printed", where=str(folder))
    return path


def _first_lines(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _spoken(value: object) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
