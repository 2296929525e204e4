"""An Ed25519 key pair in two PEM files: the private key (PKCS #8, mode 0600), and the public one beside it, named `.pub`.

PEM, so that anybody can check a model without this program; with the manifest text and the decoded signature in files:

    openssl pkeyutl -verify -pubin -inkey signing-key.pub -rawin -in manifest.json -sigfile manifest.sig

Source: RFC 8032 (Ed25519), RFC 8410 (its PEM forms). `cryptography` is imported by the functions that use it: most commands of
the command line never sign, and should not pay for it.
"""

from __future__ import annotations

import base64
import binascii
import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from millstream_server.adapters.keys.pem import id_of, new_private_pem, public_pem, replace, write_new
from millstream_server.adapters.keys.ring import KeyRing
from millstream_server.core.artifacts import Standing
from millstream_server.core.errors import Unavailable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Ed25519Signer:
    """`core.artifacts.Signer` by the private key in a file; methods may be called from any thread.

    Args:
        private: the PEM file of the private key.

    Raises:
        Unavailable: data_dir_unusable, the file is missing, can be read by others, or holds no Ed25519 key.
    """

    def __init__(self, private: Path) -> None:
        self._path = private
        self._ring = KeyRing(private)
        self._own = _Own(private)

    @property
    def key_id(self) -> str:
        """The id of the key that signs now."""
        return self._current().key_id

    @property
    def ring(self) -> KeyRing:
        """The keys that are known beside the one that signs."""
        return self._ring

    @classmethod
    def create(cls, private: Path) -> Ed25519Signer:
        """Make a key pair unless there is one, and return its signer; safe to repeat, also after an interruption.

        Raises:
            Unavailable: data_dir_unusable, as of the constructor, or the files cannot be written.
        """
        try:
            if not private.exists():
                write_new(private, new_private_pem(), 0o600)
            signer = cls(private)
            signer._write_public()
        except OSError as error:
            said = f"the signing key cannot be written: {error}"
            mend = "" if private.parent.is_dir() else f"mkdir -p {shlex.quote(str(private.parent))}"
            raise Unavailable("data_dir_unusable", said, where=str(private), mend=mend) from error
        return signer

    def sign(self, data: bytes) -> tuple[str, str]:
        own = self._current()
        return base64.b64encode(own.private.sign(data)).decode(), own.key_id

    def verify(self, data: bytes, signature: str, key_id: str) -> bool:
        from cryptography.exceptions import InvalidSignature

        own = self._last_good()
        public = own.public if key_id == own.key_id else self._ring.find(key_id)
        if public is None:
            return False
        try:
            public.verify(base64.b64decode(signature, validate=True), data)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True

    def standing(self, key_id: str) -> Standing:
        return "known" if key_id == self._last_good().key_id else self._ring.standing(key_id)

    def rotate(self) -> tuple[str, str]:
        """Let a new key sign from now on, the old one stays known; returns the ids of both, old first.

        Interrupted anywhere, what was signed is still proven: each key is known before anything is signed by it.

        Raises:
            Unavailable: data_dir_unusable
        """
        try:
            with self._ring.locked():
                old, pem = self._current(), new_private_pem()
                self._ring.add(public_pem(old.public))
                new_id = self._ring.add(public_pem(_read_key(self._path, pem).public_key()))
                replace(self._path, pem, 0o600)
                self._write_public()
        except OSError as error:
            raise Unavailable("data_dir_unusable", f"the signing key cannot be exchanged: {error}", where=str(self._path)) from error
        return old.key_id, new_id

    def _write_public(self) -> None:
        public, pem = self._path.with_name(self._path.name + ".pub"), public_pem(self._current().public)
        if not public.exists() or public.read_bytes() != pem:
            replace(public, pem, 0o644)

    def _current(self) -> _Own:
        """The key as it is in its file now: somebody may have exchanged it."""
        if not self._own.is_current():
            self._own = _Own(self._path)
        return self._own

    def _last_good(self) -> _Own:
        try:
            return self._current()
        except Unavailable:  # the file is gone or was spoilt meanwhile: what it proved before it still proves
            return self._own


class _Own:
    """The key pair in a file, and which state of the file it was read from."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = _identity(path)
        self.private = _load(path)
        self.public = self.private.public_key()
        self.key_id = id_of(self.public)

    def is_current(self) -> bool:
        return _identity(self._path) == self._read


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_mode


def _load(private: Path) -> Ed25519PrivateKey:
    return _read_key(private, _read_private(private))


def _read_key(private: Path, pem: bytes) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(private, f"holds no private key that can be read: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(private, f"holds a {type(key).__name__}, expected an Ed25519 key")
    return key


def _read_private(private: Path) -> bytes:
    try:
        with private.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise _unusable(private, f"may be used by others (mode {mode:04o}), expected 0600", mend=f"chmod 600 {private}")
            return file.read()
    except OSError as error:
        raise _unusable(private, f"cannot be read: {error}") from error


def _unusable(private: Path, why: str, *, mend: str = "") -> Unavailable:
    mend = mend or "restore it from a backup: models signed by another key do not load"
    return Unavailable("data_dir_unusable", f"the signing key {private} {why}", where=str(private), mend=mend)
