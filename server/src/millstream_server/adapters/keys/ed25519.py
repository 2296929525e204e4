"""An Ed25519 key pair in two PEM files: the private key (PKCS #8, mode 0600), and the public one beside it, named `.pub`.

PEM, so that anybody can check a model without this program; with the manifest text and the decoded signature in files:

    openssl pkeyutl -verify -pubin -inkey signing-key.pub -rawin -in manifest.json -sigfile manifest.sig

Source: RFC 8032 (Ed25519), RFC 8410 (its PEM forms). `cryptography` is imported by the functions that use it: most commands of
the command line never sign, and should not pay for it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from millstream_server.core.errors import Unavailable

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_KEY_ID_DIGITS = 16


class Ed25519Signer:
    """`core.artifacts.Signer` by the private key in a file; methods may be called from any thread.

    Args:
        private: the PEM file of the private key.

    Raises:
        Unavailable: data_dir_unusable, the file is missing, can be read by others, or holds no Ed25519 key.
    """

    def __init__(self, private: Path) -> None:
        self._private = _load(private)
        self._public = self._private.public_key()
        self.key_id = _key_id(self._public)

    @classmethod
    def create(cls, private: Path) -> Ed25519Signer:
        """Make a key pair unless there is one, and return its signer; safe to repeat, also after an interruption.

        Raises:
            Unavailable: data_dir_unusable, as of the constructor, or the files cannot be written.
        """
        try:
            if not private.exists():
                _write_new(private, _private_pem(), 0o600)
            signer = cls(private)
            public = private.with_name(private.name + ".pub")
            pem = _public_pem(signer._public)
            if not public.exists() or public.read_bytes() != pem:
                _replace(public, pem, 0o644)
        except OSError as error:
            said = f"the signing key cannot be written: {error}"
            mend = "" if private.parent.is_dir() else f"mkdir -p {shlex.quote(str(private.parent))}"
            raise Unavailable("data_dir_unusable", said, where=str(private), mend=mend) from error
        return signer

    def sign(self, data: bytes) -> tuple[str, str]:
        return base64.b64encode(self._private.sign(data)).decode(), self.key_id

    def verify(self, data: bytes, signature: str, key_id: str) -> bool:
        from cryptography.exceptions import InvalidSignature

        if key_id != self.key_id:
            return False
        try:
            self._public.verify(base64.b64decode(signature, validate=True), data)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


def _load(private: Path) -> Ed25519PrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read_private(private)
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


def _key_id(public: Ed25519PublicKey) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:_KEY_ID_DIGITS]


def _private_pem() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _public_pem(public: Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Make a file whole or not at all; where another process made it first, theirs stands."""
    temporary = _write_temporary(path, content, mode)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # two nodes started on a new data directory: both sign with the key that came first
    finally:
        temporary.unlink()
    _sync(path.parent)


def _replace(path: Path, content: bytes, mode: int) -> None:
    os.replace(_write_temporary(path, content, mode), path)
    _sync(path.parent)


def _write_temporary(path: Path, content: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of a process with our number that was killed
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
