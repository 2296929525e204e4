"""`sealed.json`: which files a location has. Whoever may write the bucket may have written it, so nothing in it is believed unseen."""

from __future__ import annotations

import hashlib
import re

import msgspec

from millstream_server.core.errors import Failed
from millstream_server.core.model import FileEntry

MOST_BYTES = 16 * 1024 * 1024
"""What `sealed.json` may weigh: over 100,000 files."""

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files of a location, by name."""

    format: int
    files: tuple[FileEntry, ...]


def encode_sealed(files: tuple[FileEntry, ...]) -> bytes:
    """The same bytes for the same files, so that two who seal the same are told from two who do not."""
    return msgspec.json.encode(Sealed(1, tuple(sorted(files, key=lambda entry: entry.name))), order="deterministic")


def read_sealed(content: bytes, where: str) -> tuple[FileEntry, ...]:
    """Read `sealed.json`.

    Raises:
        Failed: model_damaged, it is not what `encode_sealed` writes: a name with a folder in it, two files of one name, no hash.
    """
    try:
        sealed = msgspec.json.decode(content, type=Sealed)
    except msgspec.MsgspecError as error:
        raise Failed("model_damaged", f"sealed.json of the model cannot be read: {error}", where=where) from error
    if sealed.format != 1:
        raise Failed("model_damaged", f"sealed.json of the model is of format {sealed.format}, expected 1", where=where)
    names = [entry.name for entry in sealed.files]
    wrong = next((entry for entry in sealed.files if not _is_plain(entry)), None)
    if wrong is not None:
        raise Failed("model_damaged", f"sealed.json names {wrong.name!r}, which is no plain file of a model", where=where)
    if len(set(names)) != len(names):
        raise Failed("model_damaged", "sealed.json names a file twice", where=where)
    return sealed.files


def object_name(entry: FileEntry) -> str:
    """Where a file's content is, below its location: no name that anybody gives becomes a path."""
    return f"files/{hashlib.sha256(entry.name.encode()).hexdigest()[:16]}-{entry.sha256}"


def _is_plain(entry: FileEntry) -> bool:
    name = entry.name
    flat = 0 < len(name.encode("utf-8", "surrogatepass")) <= 255 and name.isprintable() and "/" not in name and name not in (".", "..")
    return flat and entry.size_bytes >= 0 and _SHA256.match(entry.sha256) is not None
