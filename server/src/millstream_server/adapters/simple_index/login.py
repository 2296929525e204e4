"""Who we are to an index: from its address, the settings, netrc, or a keyring, in this order, as pip and uv look for it too.

Sources: the netrc format as Python reads it; `keyring get SERVICE USERNAME` of the project keyring.
"""

from __future__ import annotations

import netrc
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec

KEYRING_S = 20.0
"""A keyring that asks the user something nobody sees must not hold a node up."""


class Login(msgspec.Struct, frozen=True):
    """A name and a password, or a token as the password of `__token__`; it never shows its password."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.username!r})"

    __str__ = __repr__

    @property
    def header(self) -> str:
        """The value of `Authorization` (RFC 7617)."""
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


def parted(address: str) -> tuple[str, Login | None]:
    """An address without what stands before its @, and that as a login."""
    parts = urlsplit(address)
    user, at, host = parts.netloc.rpartition("@")
    bare = urlunsplit(parts._replace(netloc=host))
    if not at:
        return bare, None
    name, _, password = user.partition(":")
    return bare, Login(unquote(name), unquote(password))


def with_login(address: str, login: Login | None) -> str:
    """An address that holds a login, for a program that takes it so."""
    parts = urlsplit(address)
    if login is None:
        return address
    return urlunsplit(parts._replace(netloc=f"{quote(login.username, safe='')}:{quote(login.password, safe='')}@{parts.netloc}"))


def find_login(address: str, username: str = "", password: str = "") -> tuple[str, Login | None]:
    """The address without a login, and the login that belongs to it, if any is known.

    Args:
        address: of the index; may hold a name, or name and password.
        username: of the settings; counts where the address holds none.
        password: of the settings.
    """
    bare, said = parted(address)
    if said is not None and said.password:
        return bare, said
    name = (said.username if said else "") or username
    if password and (name or not said):
        return bare, Login(name or "__token__", password)
    host = urlsplit(bare).hostname or ""
    found = _of_netrc(host)
    if found is not None and name in ("", found.username):
        return bare, found
    kept = _of_keyring(bare, host, name) if name else None
    return bare, kept or (Login(name, "") if name else None)


def _of_netrc(host: str) -> Login | None:
    try:
        found = netrc.netrc(os.environ.get("NETRC") or None).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None  # no file, or one that says nothing that can be read: then the server says that it wants a login
    return Login(found[0], found[2]) if found and found[2] else None


def _of_keyring(address: str, host: str, username: str) -> Login | None:
    program = shutil.which("keyring")
    if program is None:
        return None
    for service in (address, host):
        command = [program, "get", service, username]
        try:
            asked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=KEYRING_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None  # the server will say that it wants a login
        if asked.returncode == 0 and asked.stdout.strip():
            return Login(username, asked.stdout.strip("\r\n"))
    return None


def login_for(url: str, addresses: Sequence[str]) -> Login | None:
    """The login that belongs to a file's address: of the index on the same server, else of netrc."""
    parts = urlsplit(url)
    for address in addresses:
        bare, login = find_login(address)
        found = urlsplit(bare)
        if login is not None and (found.scheme, found.netloc) == (parts.scheme, parts.netloc):
            return login
    return _of_netrc(parts.hostname or "")
