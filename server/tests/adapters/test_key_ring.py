"""Several keys are known and one signs: it is exchanged and others are retired while processes go on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from millstream_server.adapters.keys import Ed25519Signer, KeyRing, read_public
from millstream_server.core.errors import Invalid, Unavailable

MANIFEST = b'{"tenant":"acme"}'


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return tmp_path / "signing-key"


def test_another_process_follows_an_exchange_at_once(private: Path) -> None:
    """It proves what either key signed, and signs with the new one, without being told."""
    one = Ed25519Signer.create(private)
    other = Ed25519Signer(private)
    before = one.sign(MANIFEST)

    old, new = one.rotate()
    after = one.sign(MANIFEST)

    assert (before[1], after[1]) == (old, new)
    assert other.verify(MANIFEST, *before)
    assert other.verify(MANIFEST, *after)
    assert other.sign(MANIFEST)[1] == new
    assert private.stat().st_mode & 0o777 == 0o600
    assert read_public(private.with_name("signing-key.pub")) is not None


def test_a_node_with_a_key_of_its_own_follows_what_it_was_told(private: Path, tmp_path: Path) -> None:
    """It does not share the file: the other's public key is added, then what that one signs is proven there."""
    stranger = Ed25519Signer.create(tmp_path / "elsewhere-key")
    node = Ed25519Signer.create(private)
    signed = stranger.sign(MANIFEST)
    unknown = (node.verify(MANIFEST, *signed), node.standing(signed[1]))

    node.ring.add((tmp_path / "elsewhere-key.pub").read_bytes())

    assert unknown == (False, "unknown")
    assert node.verify(MANIFEST, *signed)
    assert not node.verify(MANIFEST + b" ", *signed)


def test_a_retired_key_proves_nothing_until_it_is_added_again(private: Path) -> None:
    """At once, in every process that looks."""
    signer = Ed25519Signer.create(private)
    signed = signer.sign(MANIFEST)
    old, _ = signer.rotate()
    other = Ed25519Signer(private)

    signer.ring.retire(old)
    retired = (other.verify(MANIFEST, *signed), other.standing(old))
    other.ring.add((other.ring.folder / f"{old}.retired").read_bytes())

    assert retired == (False, "retired")
    assert signer.verify(MANIFEST, *signed)


def test_a_key_id_leads_nowhere_else(private: Path, tmp_path: Path) -> None:
    """It comes from a topic that others may write: it is an id, or unknown."""
    signer = Ed25519Signer.create(private)
    stranger = Ed25519Signer.create(tmp_path / "stranger")
    signature, _ = stranger.sign(MANIFEST)
    (tmp_path / "signing-key.keys").mkdir()

    for key_id in ("../stranger", str(tmp_path / "stranger"), "", ".", "\x00", "0" * 16, "A" * 16, "x" * 100_000):
        assert not signer.verify(MANIFEST, signature, key_id)
        assert signer.standing(key_id) == "unknown"


def test_a_file_under_another_keys_name_proves_nothing(private: Path, tmp_path: Path) -> None:
    """Who puts a key under a known id has not made it known."""
    signer = Ed25519Signer.create(private)
    old, _ = signer.rotate()
    stranger = Ed25519Signer.create(tmp_path / "stranger")
    signature, _ = stranger.sign(MANIFEST)

    shutil.copy(tmp_path / "stranger.pub", signer.ring.folder / f"{old}.pub")

    assert not signer.verify(MANIFEST, signature, old)


@pytest.mark.parametrize("what", ["nothing", "private", "other kind"])
def test_what_is_no_public_key_is_not_added(private: Path, what: str) -> None:
    """Nothing, a private key, or a key of another kind, each with its reason."""
    signer = Ed25519Signer.create(private)
    other_kind = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    pem = {"nothing": b"", "private": private.read_bytes(), "other kind": other_kind}[what]

    with pytest.raises(Invalid) as refused:
        signer.ring.add(pem)

    assert refused.value.code == "bad_key"
    assert signer.ring.all() == []


def test_only_a_key_of_the_ring_is_retired(private: Path) -> None:
    """A misspelt id is told, and changes nothing."""
    with pytest.raises(Invalid) as refused:
        KeyRing(private).retire("0123456789abcdef")

    assert refused.value.code == "bad_key"


def test_a_key_that_was_spoilt_signs_nothing_and_proves_on(private: Path) -> None:
    """A process that has read it goes on proving what it signed; it signs no more, with the reason."""
    signer = Ed25519Signer.create(private)
    signed = signer.sign(MANIFEST)

    private.write_text("nonsense")

    assert signer.verify(MANIFEST, *signed)
    with pytest.raises(Unavailable):
        signer.sign(MANIFEST)
