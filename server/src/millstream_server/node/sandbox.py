"""What a worker may see of the machine: the arguments of bubblewrap, and whether it works here.

Called by `confinement`. The argument list is the policy: a worker sees the system's programs and libraries, its own environment and
interpreter, all read-only, a private /tmp, and what it is given by name; everything else does not exist for it. It has user, process,
IPC, host name and control group namespaces of its own, no capability, and a network only where it is given one.

Source: bwrap(1); the man page says that bubblewrap is no complete sandbox, and that the arguments are the policy: they are tested by a
package whose pipelines try to get out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

PROGRAM = "bwrap"
INSTALL = "apt-get install --no-install-recommends --yes bubblewrap"
ALLOW = (
    "let this user make user namespaces: sysctl -w user.max_user_namespaces=10000, on Ubuntu also "
    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; in a container give it --security-opt seccomp=unconfined"
)
TRY_S = 20.0
TMP = "/tmp"  # noqa: S108 - the sandbox's own, of nobody else
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the same
SHARED_MEMORY_BYTES = 256 << 20

_NAMESPACES = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "worker")
_STRICT = ("--disable-userns",)
"""Of bubblewrap 0.8: no user namespace inside, which is where most holes of the kernel were. Left out where it is not understood."""
_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ETC = ("alternatives", "crypto-policies", "group", "ld.so.cache", "localtime", "passwd", "pki", "ssl")
"""What libraries read there. Each is a mount, which costs a millisecond of every start, so no more than they need."""
_ETC_OF_NETWORK = ("gai.conf", "host.conf", "hosts", "nsswitch.conf", "protocols", "resolv.conf", "services")
_HIDDEN = ("/etc/ssl/private", "/etc/pki/tls/private", "/etc/pki/private")
"""Keys, which a node that is root could read."""


class Missing(msgspec.Struct, frozen=True):
    """Why bubblewrap cannot be used here, and what mends it."""

    reason: str
    mend: str


class Sandbox(msgspec.Struct, frozen=True):
    """Bubblewrap as it works on this machine. `readable` and `writable` are what the operator gives every worker beside its own."""

    program: str
    version: str
    strict: tuple[str, ...]
    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    tmp_bytes: int

    def command(
        self,
        command: Sequence[str],
        python: Path,
        *,
        readable: Sequence[Path] = (),
        writable: Sequence[Path] = (),
        network: bool = False,
    ) -> list[str]:
        """A command as it is started inside.

        Args:
            python: the program of the environment, of which the environment and the interpreter's own installation are shown.
            readable: folders that this worker may read.
            writable: folders that this worker may write.
            network: whether it may reach what this machine reaches.
        """
        arguments = [self.program, *_NAMESPACES, *self.strict, "--die-with-parent", "--cap-drop", "ALL"]
        if not network:
            arguments.append("--unshare-net")
        arguments += [*_system(), *_etc(_ETC + _ETC_OF_NETWORK if network else _ETC)]
        # Of a node that is root a worker is root's too: without any capability, but /proc/sys asks for no more than root's id to write what
        # holds for the whole machine.
        arguments += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev", *_memory(SHARED_MEMORY, SHARED_MEMORY_BYTES)]
        arguments += ["--remount-ro", "/dev", *_memory(TMP, self.tmp_bytes)]
        for path in (*_installations(python), *self.readable, *readable):
            arguments += ["--ro-bind-try", str(path), str(path)]
        for path in (*self.writable, *writable):
            arguments += ["--bind-try", str(path), str(path)]
        return [*arguments, "--remount-ro", "/", "--chdir", TMP, "--", *command]


def find(readable: Sequence[Path], writable: Sequence[Path], tmp_bytes: int) -> Sandbox | Missing:
    """Look for bubblewrap and try it once, as workers will use it; takes about 20 ms."""
    program = shutil.which(PROGRAM)
    if program is None:
        return Missing("bubblewrap (the program bwrap) is not on PATH", INSTALL)
    said = ""
    for strict in (_STRICT, ()):
        sandbox = Sandbox(program, "", strict, tuple(readable), tuple(writable), tmp_bytes)
        try:
            tried = subprocess.run(
                sandbox.command(["/bin/sh", "-c", ":"], Path("/usr/bin/python3")),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TRY_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return Missing(f"{program} cannot be run: {error}", INSTALL)
        if tried.returncode == 0:
            return msgspec.structs.replace(sandbox, version=_version(program))
        said = said or tried.stderr.strip().rsplit("\n", 1)[-1] or f"exit code {tried.returncode}"
    return Missing(f"{program} does not work here: {said}", ALLOW)


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TRY_S, check=False)
    return said.stdout.strip().rpartition(" ")[2]


def _memory(path: str, size_bytes: int) -> list[str]:
    """A folder in memory that every process may write."""
    return ["--size", str(size_bytes), "--perms", "1777", "--tmpfs", path]


def _system() -> Iterator[str]:
    """Programs and libraries of the system."""
    yield from ("--ro-bind", "/usr", "/usr")
    for name in _TOP:
        path = f"/{name}"
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            yield from ("--ro-bind", path, path)


def _etc(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if os.path.exists(f"/etc/{name}"):  # not a link to what a worker would not see, such as /run/systemd/resolve: what it leads to
            yield from ("--ro-bind-try", os.path.realpath(f"/etc/{name}"), f"/etc/{name}")
    for name in _HIDDEN:
        if os.path.isdir(name):
            yield from ("--tmpfs", name, "--remount-ro", name)


def _installations(python: Path) -> Iterator[Path]:
    """The environment of a program, and of each link on its way the installation that it leads into."""
    shown: list[Path] = []
    path = Path(os.path.abspath(python))
    for _ in range(16):  # a chain of links ends, or the program would not start
        shown += [place for place in _places(path) if not any(place.is_relative_to(one) for one in (*shown, Path("/usr")))]
        if not path.is_symlink():
            break
        path = Path(os.path.normpath(path.parent / path.readlink()))
    yield from shown


def _places(program: Path) -> list[Path]:
    """An installation of Python is shown whole. Of anything else that a link leads through, such as ~/bin, the program alone."""
    prefix = program.parent.parent
    whole = prefix != Path("/") and (any(prefix.glob("lib/python3*")) or (prefix / "pyvenv.cfg").exists())
    return [prefix if whole else program]
