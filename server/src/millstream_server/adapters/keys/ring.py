"""The public keys that are known beside the one that signs: `FILE.keys/ID.pub`, and `ID.retired` for those that count no more.

Files are looked at whenever a key is asked for, so that whoever shares the folder follows a change without being told.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from millstream_server.adapters.keys.pem import id_of, public_pem, replace
from millstream_server.core.artifacts import Standing
from millstream_server.core.errors import Invalid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_ID = re.compile(r"[0-9a-f]{16}\Z")
_MOST_BYTES = 4096
"""A public key in PEM has 113 bytes."""


class RingKey(msgspec.Struct, frozen=True):
    """One key of the ring, and when its file was written (Unix milliseconds)."""

    key_id: str
    standing: Standing
    since_ms: int


class KeyRing:
    """The ring beside the private key in a file; methods may be called from any thread and process."""

    def __init__(self, private: Path) -> None:
        self.folder = private.with_name(private.name + ".keys")

    def find(self, key_id: str) -> Ed25519PublicKey | None:
        """A known key; None for one that is retired or was never added."""
        if self.standing(key_id) != "known":
            return None
        try:
            public = read_public(self.folder / f"{key_id}.pub")
        except Invalid:
            return None
        return public if id_of(public) == key_id else None  # else somebody renamed a file

    def standing(self, key_id: str) -> Standing:
        if not _ID.match(key_id):
            return "unknown"  # it comes from a topic that others may write, and would become a path
        if (self.folder / f"{key_id}.retired").exists():
            return "retired"
        return "known" if (self.folder / f"{key_id}.pub").is_file() else "unknown"

    def all(self) -> list[RingKey]:
        """All of them, oldest first."""
        found = []
        for path in self.folder.glob("*.*"):
            if _ID.match(path.stem) and path.suffix in (".pub", ".retired"):
                found.append(RingKey(path.stem, self.standing(path.stem), path.stat().st_mtime_ns // 1_000_000))
        return sorted({key.key_id: key for key in found}.values(), key=lambda key: key.since_ms)

    def add(self, pem: bytes) -> str:
        """Let a public key count, also one that was retired, and return its id.

        Raises:
            Invalid: bad_key
        """
        public = parse_public(pem, "what was given")
        key_id = id_of(public)
        self.folder.mkdir(exist_ok=True)
        replace(self.folder / f"{key_id}.pub", public_pem(public), 0o644)
        with suppress(FileNotFoundError):
            (self.folder / f"{key_id}.retired").unlink()
        return key_id

    def retire(self, key_id: str) -> None:
        """Let a key count no more; its file stays, under another name.

        Raises:
            Invalid: bad_key, there is none of this id.
        """
        if self.standing(key_id) == "unknown":
            raise Invalid("bad_key", f"there is no key {key_id!r} in {self.folder}")
        with suppress(FileNotFoundError):
            replace(self.folder / f"{key_id}.retired", (self.folder / f"{key_id}.pub").read_bytes(), 0o644)
            (self.folder / f"{key_id}.pub").unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Held by one process at a time while it changes several files."""
        self.folder.mkdir(exist_ok=True)
        with open(self.folder / ".lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def read_public(path: Path) -> Ed25519PublicKey:
    """Read the public key in a file.

    Raises:
        Invalid: bad_key
    """
    try:
        with path.open("rb") as file:
            pem = file.read(_MOST_BYTES)
    except OSError as error:
        raise Invalid("bad_key", f"{path} cannot be read: {error.strerror}", where=str(path)) from error
    return parse_public(pem, str(path))


def parse_public(pem: bytes, where: str) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        public = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        said = "a private key, which belongs nowhere but to who signs" if b"PRIVATE KEY" in pem else "no public key in PEM"
        raise Invalid("bad_key", f"{where} is {said}; expected the .pub file beside a signing key", where=where) from error
    if not isinstance(public, Ed25519PublicKey):
        raise Invalid("bad_key", f"{where} holds a {type(public).__name__}, expected an Ed25519 key", where=where)
    return public
