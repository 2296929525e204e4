"""Signatures of model manifests with a key in a file.

Called through the port `core.artifacts.Signer` by the node; made by `app` with the data directory. Invariant: only a key that
nobody but its owner can read is used, and an existing key is never overwritten.
"""

from millstream_server.adapters.keys.ed25519 import Ed25519Signer

__all__ = ["Ed25519Signer"]
