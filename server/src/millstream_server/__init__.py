"""Millstream's server: the node, the doors and the adapters; see `core` for the words and rules."""

__version__ = "0.2.0"
