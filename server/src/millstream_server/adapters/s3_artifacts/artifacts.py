"""Staging, sealing and fetching of model files whose truth is a bucket."""

from __future__ import annotations

import errno
import hashlib
import threading
from pathlib import Path

from millstream_server.adapters.s3_artifacts.cache import Cache
from millstream_server.adapters.s3_artifacts.objects import Access, Objects
from millstream_server.adapters.s3_artifacts.sealed import MOST_BYTES, encode_sealed, object_name, read_sealed
from millstream_server.core.artifacts import Artifacts
from millstream_server.core.errors import Failed, Unavailable
from millstream_server.core.model import FileEntry

SEALED = "sealed.json"


class S3Artifacts:
    """`core.artifacts.Artifacts` at `s3://BUCKET/PREFIX`; methods may be called from any thread.

    Args:
        url: the address.
        access: how it is reached.
        cache: the folder of copies on this machine; attempts write there, and workers read there.
        local: artifacts in that folder.
        most_cached_bytes: what copies may take; those asked for in the last ten minutes stay whatever they take.

    Raises:
        Invalid: bad_config
        Unavailable: artifacts_unusable, the library is not installed.
    """

    def __init__(self, url: str, access: Access, *, cache: Path, local: Artifacts, most_cached_bytes: int) -> None:
        self._objects = Objects(url, access)
        self._local = local
        self._cache = Cache(cache, local, most_cached_bytes)
        self._proven = False
        self._lock = threading.Lock()
        self._fetching: dict[str, threading.Lock] = {}

    def check(self) -> str:
        self._objects.probe()
        self._proven = True
        return f"{self._objects.url}, keeps conditional writes"

    def stage(self, key: str, run: str, attempt: int) -> Path:
        return self._local.stage(key, run, attempt)

    def seal(self, staged: Path) -> str:
        """Locally first, which checks every file and makes it read-only; then all files, and at last the word that they are all there.

        Raises also:
            Unavailable: artifacts_unavailable, artifacts_unusable; the files wait here, and the same call goes on.
        """
        if not self._proven:
            self.check()
        location = self._local.seal(staged)
        folder = self._local.fetch(location)
        files = self._local.hash_files(folder)
        for entry in files:
            self._objects.upload(f"{location}/{object_name(entry)}", folder / entry.name)
        sealed = encode_sealed(files)
        if not self._objects.create(f"{location}/{SEALED}", sealed):
            there = self._objects.read(f"{location}/{SEALED}", MOST_BYTES)
            if there != sealed:
                self._cache.forget(location)
                raise Failed("bad_model_files", f"another attempt has sealed other files at {self.place(location)}", where=location)
        self._cache.keep(location, sealed)
        self._cache.tidy()
        return location

    def fetch(self, location: str) -> Path:
        self._local.measure(location)  # refuses what is no location
        with self._one_at_a_time(location):
            sealed = self._cache.sealed(location)
            if sealed is not None:
                found = self._cache.find(location, read_sealed(sealed, location))
                if found is not None:
                    return found
            return self._download(location)

    def hash_files(self, folder: Path) -> tuple[FileEntry, ...]:
        return self._local.hash_files(folder)

    def discard(self, staged: Path) -> None:
        self._local.discard(staged)

    def measure(self, location: str) -> tuple[int, int]:
        self._local.measure(location)  # refuses what is no location
        sizes = [size for name, size in self._objects.list(location) if not name.endswith(f"/{SEALED}")]
        return len(sizes), sum(sizes)

    def remove(self, location: str) -> int:
        freed_bytes = self.measure(location)[1]
        # First the word that it is whole: what is left when this is interrupted is a location no more, and is removed by a repetition.
        self._objects.delete([f"{location}/{SEALED}"])
        self._objects.delete([name for name, _ in self._objects.list(location)])
        self._cache.forget(location)
        return freed_bytes

    def place(self, location: str) -> str:
        return self._objects.place(location)

    def _download(self, location: str) -> Path:
        sealed = self._objects.read(f"{location}/{SEALED}", MOST_BYTES)
        if sealed is None:
            raise Failed("model_damaged", f"the model's files are gone: {self.place(location)}", where=location)
        files = read_sealed(sealed, location)
        self._check_sizes(location, files)
        self._cache.find(location, files)  # what stands there and is not whole would be in the way
        try:
            return self._cache.add(location, sealed, lambda folder: self._fill(folder, location, files))
        except OSError as error:
            code = "no_space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "data_dir_unusable"
            raise Unavailable(code, f"cannot keep a copy of model files: {error}", where=location) from error

    def _check_sizes(self, location: str, files: tuple[FileEntry, ...]) -> None:
        """See that every object is there and as long as it should be, before anything of it takes space here."""
        sizes = dict(self._objects.list(location))
        for entry in files:
            name = f"{location}/{object_name(entry)}"
            if name not in sizes:
                raise Failed("model_damaged", f"file {entry.name} of the model is gone: {self.place(name)}", where=location)
            if sizes[name] != entry.size_bytes:
                said = f"file {entry.name} of the model has {sizes[name]} bytes, expected {entry.size_bytes}: {self.place(name)}"
                raise Failed("model_damaged", said, where=location)

    def _fill(self, folder: Path, location: str, files: tuple[FileEntry, ...]) -> None:
        for entry in files:
            name = f"{location}/{object_name(entry)}"
            digest = hashlib.sha256()
            try:
                with open(folder / entry.name, "xb") as file:
                    for part in self._objects.parts(name, entry.size_bytes):
                        digest.update(part)
                        file.write(part)
            except FileNotFoundError as error:
                raise Failed("model_damaged", f"file {entry.name} of the model is gone: {self.place(name)}", where=location) from error
            if digest.hexdigest() != entry.sha256:
                raise Failed("model_damaged", f"file {entry.name} of the model was changed: {self.place(name)}", where=location)

    def _one_at_a_time(self, location: str) -> threading.Lock:
        with self._lock:
            if len(self._fetching) > 10_000:
                self._fetching = {place: lock for place, lock in self._fetching.items() if lock.locked()}
            return self._fetching.setdefault(location, threading.Lock())
