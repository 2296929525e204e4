"""What a model or project needs, as requirements that a lock can be made of: names and versions, of an index and of nowhere else.

Called by the readers beside this module. Source: the requirements file format, pip.pypa.io; PEP 508.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from millstream_server.core.errors import Invalid
from millstream_server.environments.mlflow_models.reading import read_yaml

_MOST_BYTES = 1 << 20
_PYTHON = re.compile(r"(?P<minor>3\.\d+)(\.\d+)?\Z")
_CONDA = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)\s*(?P<version>[=<>!].*)?\Z")
_MEND = "write what it needs as NAME==VERSION lines, and import it with: --requirements FILE"


class Wanted(msgspec.Struct, frozen=True):
    """`lines` are requirements, `constraints` versions that those keep to; `python` a minor such as 3.11, or empty where nothing says."""

    lines: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    python: str = ""

    def names(self) -> frozenset[str]:
        return frozenset(canonicalize_name(Requirement(line).name) for line in self.lines)


def read_requirements(path: Path, inside: Path | None = None) -> Wanted:
    """Read a requirements file; `-r` and `-c` are followed to files beside it.

    Args:
        inside: the folder that every file must be in; that of `path` where left out.

    Raises:
        Invalid: bad_requirements, naming the line: an address, a path, an option that says where to look.
    """
    lines: list[str] = []
    constraints: list[str] = []
    _read(path, (inside or path.parent).resolve(), lines, constraints, ())
    return Wanted(tuple(lines), tuple(constraints))


def of_python_env(folder: Path, name: str, code: str) -> Wanted:
    """What a `python_env.yaml` says.

    Raises:
        Invalid: bad_requirements, or `code` where the file is none.
    """
    said = read_yaml(folder, name, code)
    lines: list[str] = []
    constraints: list[str] = []
    for part in ("build_dependencies", "dependencies"):
        for entry in _texts(said.get(part), folder / name):
            if part == "build_dependencies" and _name_of(entry) != "setuptools":
                continue  # pip and wheel build; setuptools alone is imported by code that asks for its own version
            _take(entry, folder / name, folder.resolve(), lines, constraints, ())
    return Wanted(tuple(lines), tuple(constraints), _minor(said.get("python"), folder / name))


def of_conda(folder: Path, name: str, code: str) -> Wanted:
    """What a `conda.yaml` says, where nothing but its Python and its pip part matters.

    Raises:
        Invalid: bad_requirements, it wants other packages of conda; `code` where the file is none.
    """
    path = folder / name
    python = ""
    lines: list[str] = []
    constraints: list[str] = []
    for entry in read_yaml(folder, name, code).get("dependencies") or []:
        if isinstance(entry, Mapping):
            for each in _texts(entry.get("pip"), path):
                _take(each, path, folder.resolve(), lines, constraints, ())
            continue
        found = _CONDA.match(str(entry).partition("::")[2] or str(entry))
        wanted = found["name"].lower() if found else str(entry)
        if wanted == "python":
            python = _minor((found["version"] or "").strip("=<>! ") if found else "", path)
        elif wanted not in ("pip", "setuptools", "wheel"):
            raise Invalid(
                "bad_requirements", f"{name} wants {entry} of conda; environments are made of wheels alone", where=str(path), mend=_MEND
            )
    return Wanted(tuple(lines), tuple(constraints), python)


def _read(path: Path, inside: Path, lines: list[str], constraints: list[str], above: tuple[Path, ...]) -> None:
    real = path.resolve()
    if path.is_symlink() or not real.is_relative_to(inside) or not real.is_file():
        raise Invalid("bad_requirements", f"{path} is no file inside {inside}", where=str(path), mend=_MEND)
    if real in above:
        raise Invalid("bad_requirements", f"{path} includes itself", where=str(path), mend=_MEND)
    if real.stat().st_size > _MOST_BYTES:
        raise Invalid("bad_requirements", f"{path} is larger than {_MOST_BYTES} bytes", where=str(path), mend=_MEND)
    try:
        text = real.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid("bad_requirements", f"{path} is not UTF-8: {error}", where=str(path), mend=_MEND) from None
    for line in text.replace("\\\n", " ").splitlines():
        _take(line, path, inside, lines, constraints, (*above, real))


def _take(line: str, path: Path, inside: Path, lines: list[str], constraints: list[str], above: tuple[Path, ...]) -> None:
    """Take one line in: a requirement, or a file of them."""
    entry = re.split(r"(?:^|\s)#|\s--hash", line)[0].strip()
    if not entry:
        return
    option = re.match(r"(-r|--requirement|-c|--constraint)[=\s]*(?P<name>\S+)\Z", entry)
    if option:
        into = constraints if option[1] in ("-c", "--constraint") else lines
        _read(path.parent / option["name"], inside, into, constraints, above)
        return
    try:
        wanted = Requirement(entry)
    except InvalidRequirement as error:
        raise Invalid(
            "bad_requirements", f"{entry[:200]!r} is no NAME==VERSION: {str(error).splitlines()[0]}", where=str(path), mend=_MEND
        ) from None
    if wanted.url:
        raise Invalid(
            "bad_requirements",
            f"{wanted.name} is wanted from {wanted.url[:200]}; a lock holds names, versions and hashes, to install from any index",
            where=str(path),
            mend=_MEND,
        )
    lines.append(str(wanted))


def _texts(value: object, path: Path) -> Iterable[str]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Invalid("bad_requirements", f"its dependencies are {value!r:.200}; expected a list of texts", where=str(path), mend=_MEND)
    return value


def _name_of(entry: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", entry.strip())
    return canonicalize_name(found[0]) if found else ""


def _minor(value: Any, path: Path) -> str:
    """3.11 of 3.11.7; empty where nothing is said."""
    if value is None or value == "":
        return ""
    text = "3.10" if value == 3.1 else str(value).strip()  # YAML reads 3.10 without quotes as a number
    found = _PYTHON.match(text)
    if found is None:
        raise Invalid("bad_requirements", f"its Python is {value!r:.100}; expected a version such as 3.11.7", where=str(path), mend=_MEND)
    return found["minor"]
