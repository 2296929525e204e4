"""The nouns and rules of Millstream: request, result, release, model, run, routing, batching, offsets, retry.

Called by every other room; imports the standard library and msgspec, nothing else. Does no I/O, reads no clock and no
environment: both are handed in. Invariant: what the platform promises is decided here, and nowhere else twice.
"""
