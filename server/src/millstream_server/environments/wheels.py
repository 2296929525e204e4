"""Wheels as files: their dist-info, the hash of their code, and how the release's own files are added to them.

Called by the build, which adds `millstream/manifest.json` and `millstream/lock.txt` to a wheel's dist-info, and by whoever
reads a release out of a wheel. Source: the binary distribution format, packaging.python.org/specifications.
"""

from __future__ import annotations

import base64
import csv
import email.parser
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from packaging.utils import canonicalize_name

from millstream_server.core.errors import Invalid

MANIFEST = "millstream/manifest.json"
LOCK = "millstream/lock.txt"

_EPOCH = (1980, 1, 1, 0, 0, 0)
_EXECUTABLE = 0o100755
_PLAIN = 0o100644
_VERSION = re.compile(rb"^Version: .*$", re.MULTILINE)


class WheelInfo(msgspec.Struct, frozen=True):
    """What a wheel's METADATA says, and the name of its dist-info folder; `name` normalised (PEP 503)."""

    name: str
    version: str
    requires_python: str
    dist_info: str


def read_info(wheel: Path) -> WheelInfo:
    """Read name, version and requires-python.

    Raises:
        Invalid: bad_package, the file is no wheel.
    """
    with _opened(wheel) as archive:
        dist_info = _dist_info(archive, wheel)
        try:
            text = archive.read(f"{dist_info}/METADATA").decode("utf-8")
        except KeyError:
            raise Invalid("bad_package", f"{wheel.name} has no METADATA in {dist_info}", where=str(wheel)) from None
    fields = email.parser.HeaderParser().parsestr(text)
    return WheelInfo(str(canonicalize_name(fields["Name"] or "")), fields["Version"] or "", fields["Requires-Python"] or "", dist_info)


def read_member(wheel: Path, name: str) -> bytes | None:
    """Read one file of the wheel's dist-info (such as `millstream/manifest.json`); None when it has none of that name."""
    with _opened(wheel) as archive:
        try:
            return archive.read(f"{_dist_info(archive, wheel)}/{name}")
        except KeyError:
            return None


def top_level_modules(wheel: Path) -> tuple[str, ...]:
    """Names that the wheel makes importable: its top-level packages (with an `__init__.py`) and modules, sorted."""
    found: set[str] = set()
    with _opened(wheel) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if len(parts) == 2 and parts[1] == "__init__.py" and parts[0].isidentifier():
                found.add(parts[0])
            elif len(parts) == 1 and name.endswith(".py") and name[:-3].isidentifier():
                found.add(name[:-3])
    return tuple(sorted(found))


def code_sha256(wheel: Path) -> str:
    """Hash the wheel's own files in sorted order, each as name, size and bytes; RECORD and what `add_files` adds left out.

    So the hash of a wheel is the same before and after the release's files were added to it.
    """
    digest = hashlib.sha256()
    with _opened(wheel) as archive:
        dist_info = _dist_info(archive, wheel)
        for name in sorted(archive.namelist()):
            if name.endswith("/") or name == f"{dist_info}/RECORD" or name.startswith(f"{dist_info}/millstream/"):
                continue
            data = archive.read(name)
            digest.update(f"{name}\0{len(data)}\0".encode())
            digest.update(data)
    return digest.hexdigest()


def add_files(wheel: Path, target: Path, extra: Mapping[str, bytes]) -> None:
    """Write `target`, the wheel with more files in its dist-info and a RECORD that names them all.

    The same input makes the same bytes: names sorted, dist-info last, times fixed. `target` appears whole or not at all.
    """
    dist_info, members = _members(wheel)
    members.update({f"{dist_info}/{name}": (data, _PLAIN) for name, data in extra.items()})
    _write(target, dist_info, members)


def with_version(wheel: Path, version: str, out_dir: Path) -> Path:
    """Write the same wheel under another version into a folder, and return its path: file name, dist-info and METADATA say it.

    Raises:
        Invalid: bad_package, the file is no wheel, or its METADATA says no version.
    """
    dist_info, members = _members(wheel)
    name, _, tags = wheel.name.split("-", 2)
    renamed = f"{name}-{version}.dist-info"
    moved = {
        f"{renamed}{path.removeprefix(dist_info)}" if path.startswith(f"{dist_info}/") else path: data for path, data in members.items()
    }
    metadata, mode = moved[f"{renamed}/METADATA"]
    changed, count = _VERSION.subn(f"Version: {version}".encode(), metadata, count=1)
    if not count:
        raise Invalid("bad_package", f"the METADATA of {wheel.name} says no version", where=str(wheel))
    moved[f"{renamed}/METADATA"] = (changed, mode)
    target = out_dir / f"{name}-{version}-{tags}"
    _write(target, renamed, moved)
    return target


def _members(wheel: Path) -> tuple[str, dict[str, tuple[bytes, int]]]:
    """The name of the dist-info folder, and every file but RECORD with its mode."""
    with _opened(wheel) as archive:
        dist_info = _dist_info(archive, wheel)
        return dist_info, {
            item.filename: (archive.read(item), _EXECUTABLE if (item.external_attr >> 16) & 0o111 else _PLAIN)
            for item in archive.infolist()
            if not item.is_dir() and item.filename != f"{dist_info}/RECORD"
        }


def _write(target: Path, dist_info: str, members: dict[str, tuple[bytes, int]]) -> None:
    ordered = sorted(members, key=lambda name: (name.startswith(f"{dist_info}/"), name))
    members[f"{dist_info}/RECORD"] = (_record({name: members[name][0] for name in ordered}, f"{dist_info}/RECORD"), _PLAIN)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as out:
            for name in [*ordered, f"{dist_info}/RECORD"]:
                data, mode = members[name]
                item = zipfile.ZipInfo(name, _EPOCH)
                item.external_attr = mode << 16
                item.compress_type = zipfile.ZIP_DEFLATED
                out.writestr(item, data)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_hash(data: bytes) -> str:
    """A hash as RECORD spells it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode("ascii")


def _record(files: Mapping[str, bytes], own_name: str) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for name, data in files.items():
        writer.writerow([name, record_hash(data), len(data)])
    writer.writerow([own_name, "", ""])
    return out.getvalue().encode()


def _opened(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except (zipfile.BadZipFile, FileNotFoundError) as error:
        raise Invalid("bad_package", f"{wheel.name} is not a wheel: {error}", where=str(wheel)) from None


def _dist_info(archive: zipfile.ZipFile, wheel: Path) -> str:
    names = {name.split("/", 1)[0] for name in archive.namelist()}
    found = [name for name in names if name.endswith(".dist-info")]
    if len(found) != 1:
        raise Invalid("bad_package", f"{wheel.name} has {len(found)} dist-info folders, a wheel has one", where=str(wheel))
    return found[0]
