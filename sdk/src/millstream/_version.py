"""The one place where the SDK says its version; a test compares it with `pyproject.toml`."""

__version__ = "0.2.0"
