"""What names may be: of tenants, models, pipelines, packages."""

from __future__ import annotations

import re
from functools import lru_cache

from millstream_server.core.errors import Invalid

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
DEFAULT_TENANT = "default"
MAX_ID_CHARS = 200
MAX_NAME_CHARS = 64


def is_name(text: str) -> bool:
    """Letters, digits, dash and underscore, 1 to 64 of them; no dot, because `tenant.model` must split in one way."""
    return len(text) <= MAX_NAME_CHARS and _is_name(text)  # the length first: what is remembered must be short


@lru_cache(maxsize=65_536)
def _is_name(text: str) -> bool:
    return _NAME.match(text) is not None


def check_name(kind: str, text: str) -> str:
    """Return the name, or raise.

    Raises:
        Invalid: code bad_name, naming the kind and the text.
    """
    if not is_name(text):
        raise Invalid("bad_name", f"{kind} {text!r} is not a name: letters, digits, - and _ only, 1 to 64 of them")
    return text


def model_key(tenant: str, model: str) -> str:
    """Spell a tenant's model as topics, registry, URLs and metrics do: `tenant.model`."""
    return f"{tenant}.{model}"
