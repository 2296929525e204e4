"""The signing key: made once, private, and its signatures can be checked without this program."""

from __future__ import annotations

import base64
import hashlib
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_pem_public_key
from millstream_server.adapters.keys import Ed25519Signer
from millstream_server.core.errors import Unavailable

MANIFEST = b'{"files":[],"tenant":"acme"}'


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return tmp_path / "signing-key"


def test_a_signature_verifies_with_the_same_key(private: Path) -> None:
    """Whoever opens the key file later verifies what was signed before."""
    signature, key_id = Ed25519Signer.create(private).sign(MANIFEST)

    assert Ed25519Signer(private).verify(MANIFEST, signature, key_id)


def test_anything_else_does_not_verify(private: Path, tmp_path: Path) -> None:
    """Other bytes, another signature, another key or its id, and what is no signature at all."""
    signer = Ed25519Signer.create(private)
    stranger = Ed25519Signer.create(tmp_path / "other-key")
    signature, key_id = signer.sign(MANIFEST)
    theirs, their_id = stranger.sign(MANIFEST)

    assert not signer.verify(MANIFEST + b" ", signature, key_id)
    assert not signer.verify(MANIFEST, theirs, their_id)
    assert not signer.verify(MANIFEST, theirs, key_id)
    assert not signer.verify(MANIFEST, signature, their_id)
    for broken in ("", "c2ln", "not base64!", "ünïcode", signature[:-4], signature + "AAAA", " " + signature):
        assert not signer.verify(MANIFEST, broken, key_id)


def test_the_key_id_is_the_start_of_the_public_keys_hash(private: Path) -> None:
    """Sixteen hex digits of the SHA-256 of the 32 raw bytes, from the public file alone."""
    signer = Ed25519Signer.create(private)
    public = load_pem_public_key(private.with_name("signing-key.pub").read_bytes())

    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)

    assert len(raw) == 32
    assert signer.sign(MANIFEST)[1] == signer.key_id == hashlib.sha256(raw).hexdigest()[:16]


def test_the_key_pair_is_two_files_and_only_the_public_one_is_open(private: Path) -> None:
    """The private file is its owner's alone, and nothing else is left in the folder."""
    Ed25519Signer.create(private)

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in private.parent.iterdir()}
    assert modes == {"signing-key": 0o600, "signing-key.pub": 0o644}


def test_making_a_key_again_keeps_it_and_mends_the_public_file(private: Path) -> None:
    """A start that was killed between the two files is finished by the next; no key is ever replaced."""
    first = Ed25519Signer.create(private)
    pem = private.with_name("signing-key.pub").read_bytes()
    private.with_name("signing-key.pub").unlink()

    second = Ed25519Signer.create(private)

    assert second.key_id == first.key_id
    assert private.with_name("signing-key.pub").read_bytes() == pem


def test_processes_that_make_a_key_at_once_make_one(private: Path) -> None:
    """Whoever comes second signs with the key that is there."""
    code = """
import pathlib, sys
from millstream_server.adapters.keys import Ed25519Signer
print(Ed25519Signer.create(pathlib.Path(sys.argv[1])).key_id)
"""
    makers = [subprocess.Popen([sys.executable, "-c", code, str(private)], stdout=subprocess.PIPE, text=True) for _ in range(4)]

    said = [maker.communicate(timeout=60)[0].strip() for maker in makers]

    assert set(said) == {Ed25519Signer(private).key_id}
    assert sorted(file.name for file in private.parent.iterdir()) == ["signing-key", "signing-key.pub"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_key_that_others_may_use_is_refused(private: Path, mode: int) -> None:
    """The mend is the command that closes it, and it works."""
    Ed25519Signer.create(private)
    private.chmod(mode)

    with pytest.raises(Unavailable, match=f"{mode:04o}") as refused:
        Ed25519Signer(private)

    assert refused.value.mend == f"chmod 600 {private}"
    subprocess.run(refused.value.mend.split(), check=True)
    Ed25519Signer(private)


def test_a_missing_key_is_refused(private: Path) -> None:
    """A key is made with the data directory, never in passing: models signed by the lost one would not load."""
    with pytest.raises(Unavailable) as refused:
        Ed25519Signer(private)

    assert (refused.value.code, refused.value.where) == ("data_dir_unusable", str(private))
    assert not private.exists()


def test_a_key_in_a_folder_that_is_not_there_is_mended_by_making_the_folder(tmp_path: Path) -> None:
    """The mend is the command that makes it, whatever its name is, and it works."""
    private = tmp_path / "shared with" / "it's ours" / "key"

    with pytest.raises(Unavailable) as refused:
        Ed25519Signer.create(private)

    assert (refused.value.code, refused.value.where) == ("data_dir_unusable", str(private))
    assert refused.value.mend.startswith("mkdir -p ")
    subprocess.run(["sh", "-c", refused.value.mend], check=True)
    Ed25519Signer.create(private)


@pytest.mark.parametrize("kind", ["empty", "text", "other"])
def test_what_is_no_ed25519_key_is_refused(private: Path, kind: str) -> None:
    """Nothing is signed with a key of another kind, and the file is left as it is."""
    other = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    private.write_bytes({"empty": b"", "text": b"secret", "other": other}[kind])
    private.chmod(0o600)
    before = private.read_bytes()

    for attempt in (Ed25519Signer, Ed25519Signer.create):
        with pytest.raises(Unavailable) as refused:
            attempt(private)
        assert refused.value.code == "data_dir_unusable"

    assert private.read_bytes() == before


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on this machine")
def test_openssl_verifies_a_signature(private: Path, tmp_path: Path) -> None:
    """The command in the module's docstring says yes to the manifest that was signed, and no to another."""
    signature, _ = Ed25519Signer.create(private).sign(MANIFEST)
    (tmp_path / "manifest.json").write_bytes(MANIFEST)
    (tmp_path / "other.json").write_bytes(MANIFEST + b" ")
    (tmp_path / "manifest.sig").write_bytes(base64.b64decode(signature))

    def verify(name: str) -> int:
        command = [
            "openssl",
            "pkeyutl",
            "-verify",
            "-pubin",
            "-inkey",
            "signing-key.pub",
            "-rawin",
            "-in",
            name,
            "-sigfile",
            "manifest.sig",
        ]
        return subprocess.run(command, cwd=tmp_path, capture_output=True).returncode

    assert verify("manifest.json") == 0
    assert verify("other.json") != 0


def test_a_command_that_does_not_sign_does_not_pay_for_it() -> None:
    """Importing the room imports no cryptography."""
    code = "import sys, millstream_server.adapters.keys; sys.exit('cryptography' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
