"""The ports of model files: where they are kept, and who vouches for them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from millstream_server.core.model import FileEntry


class Artifacts(Protocol):
    """Flat files of model versions. A location is a relative path that never changes its contents once sealed.

    Where the files are kept elsewhere, any method may raise Unavailable: artifacts_unavailable (it does not answer now; what waits
    here waits on), artifacts_unusable (it refuses us, or does not do what this port promises).
    """

    def check(self) -> str:
        """See that files can be kept there as this port promises, and return what was found, for people.

        Raises:
            Unavailable
        """

    def stage(self, key: str, run: str, attempt: int) -> Path:
        """Make and return the empty folder into which an attempt of a run writes the files of a model (`key` is tenant.model).

        What earlier attempts of the run left staged is removed.
        """

    def seal(self, staged: Path) -> str:
        """Make a staged folder durable (fsync of files and folder) and read-only, and return its location; safe to repeat.

        Raises:
            Failed: bad_model_files, it holds anything but regular files, or it is gone.
            Unavailable: no_space, data_dir_unusable.
        """

    def fetch(self, location: str) -> Path:
        """Return a local folder with the files of a location; the caller verifies them before anything parses them.

        Raises:
            Failed: model_damaged, the folder is gone, or the location is not one that `seal` gives.
        """

    def place(self, location: str) -> str:
        """Where the files of a location are, or would be, as people look for them: a path or an address."""

    def hash_files(self, folder: Path) -> tuple[FileEntry, ...]:
        """Name, size and SHA-256 of every file of a flat folder, by name; for the manifest, and to verify against it.

        Raises:
            Failed: model_damaged, the folder is gone, or holds anything but regular files (a link, a folder, a device).
        """

    def discard(self, staged: Path) -> None:
        """Remove a staged folder that came to nothing; one that is gone is no error."""

    def measure(self, location: str) -> tuple[int, int]:
        """How many files a location has now, and their bytes; (0, 0) where nothing is left. Says nothing of what they hold."""

    def remove(self, location: str) -> int:
        """Remove the files of a location for good and return how many bytes that gives back; safe to repeat, 0 where nothing is left.

        Raises:
            Failed: model_damaged, the location is not one that `seal` gives.
            Unavailable: data_dir_unusable, they cannot be removed.
        """


Standing = Literal["known", "retired", "unknown"]
"""What a key is to this node: its signatures count, count no more, or were never heard of."""


class Signer(Protocol):
    """Ed25519 over bytes. One key signs, which nodes that share artifacts share; several may be known, so that it can be exchanged."""

    def sign(self, data: bytes) -> tuple[str, str]:
        """Return the base64 signature and the id of the key."""

    def verify(self, data: bytes, signature: str, key_id: str) -> bool:
        """True only for a signature by a known key over exactly these bytes."""

    def standing(self, key_id: str) -> Standing:
        """What a key is now; who exchanged or retired one elsewhere need not tell this process."""
