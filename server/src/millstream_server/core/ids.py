"""Ids that sort by their time: ULIDs (48 bits of Unix milliseconds, 80 random bits, Crockford base 32, 26 characters).

Source: the ULID specification, github.com/ulid/spec.
"""

from __future__ import annotations

import secrets

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id(now_ms: int) -> str:
    """Make an id for a moment (Unix milliseconds)."""
    number = (now_ms & ((1 << 48) - 1)) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))
