"""Signatures of model manifests with a key in a file, and the public keys that are known beside it.

Called through the port `core.artifacts.Signer` by the node; made by `app` with the data directory. Invariant: only a key that
nobody but its owner can read is used to sign, an existing key is never lost from the ring, and nothing is signed by a key that the
ring does not know. `ed25519` signs, `ring` knows, `pem` is the files.
"""

from millstream_server.adapters.keys.ed25519 import Ed25519Signer
from millstream_server.adapters.keys.ring import KeyRing, RingKey, read_public

__all__ = ["Ed25519Signer", "KeyRing", "RingKey", "read_public"]
