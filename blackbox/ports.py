"""Ports of the loopback interface for servers that a test starts."""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack
from pathlib import Path

_WIDTH = 12_000


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nobody listens now, below those that the kernel gives to outgoing connections.

    A port of the kernel's own range may be taken by anybody's connection while a server restarts; a client that keeps trying such
    a port can even be connected with itself, and then the server cannot have it back.

    Raises:
        OSError: none was found in a hundred tries each.
    """
    # Source: ip(7), ip_local_port_range. 32768 on most machines.
    first_of_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    low = max(1024, first_of_kernel - _WIDTH)
    with ExitStack() as held:
        ports: list[int] = []
        for _ in range(100 * count):
            candidate = held.enter_context(socket.socket())
            try:
                candidate.bind(("127.0.0.1", low + secrets.randbelow(_WIDTH)))
            except OSError:
                continue  # taken: another one will do
            ports.append(candidate.getsockname()[1])
            if len(ports) == count:
                return ports
    raise OSError(f"no {count} free ports between {low} and {low + _WIDTH}")


def free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1."""
    with socket.socket() as asking:
        # As servers do: connections of an earlier one that are only waiting to be forgotten are no hindrance.
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            asking.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
