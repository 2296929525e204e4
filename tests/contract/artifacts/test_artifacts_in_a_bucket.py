"""Model files in a bucket: half uploads, races, changed objects, copies on the node, and stores that are away, hang, or are careless."""

from __future__ import annotations

import http.server
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import obstore
import pytest
from kept_models import KEY, ON_S3, RUN, OpenBucket, staged_model
from millstream_server.adapters.folder_artifacts import FolderArtifacts
from millstream_server.adapters.s3_artifacts import Access, S3Artifacts
from millstream_server.core.errors import Failed, Invalid, MillstreamError, Unavailable

from blackbox.s3 import SECRET, S3Gateway

pytestmark = ON_S3

T = TypeVar("T")
AT = f"{KEY}/{RUN}-1"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


WHOLE = {"model.skops": b"fitted", "config.json": b"{}"}


def test_one_node_seals_and_another_fetches(open_bucket: OpenBucket) -> None:
    """The bucket is all that the two share."""
    location = open_bucket("a").seal(staged_model(open_bucket("a")))

    assert contents(open_bucket("b").fetch(location)) == WHOLE


def test_a_large_file_goes_up_and_down_in_parts(open_bucket: OpenBucket) -> None:
    """What one request carries is bounded, so that its time limit means the same for every file."""
    content = os.urandom(20_000_000)
    staged = open_bucket("a").stage(KEY, RUN, 1)
    (staged / "weights").write_bytes(content)

    location = open_bucket("a").seal(staged)

    assert (open_bucket("b").fetch(location) / "weights").read_bytes() == content


def test_half_an_upload_is_no_location(open_bucket: OpenBucket, gateway: S3Gateway, prefix: str) -> None:
    """Without the word that all files are there nobody takes what is there, and what is left can be removed."""
    location = open_bucket("a").seal(staged_model(open_bucket("a")))
    obstore.delete(gateway.objects(prefix), f"{location}/sealed.json")

    with pytest.raises(Failed, match="gone"):
        open_bucket("b").fetch(location)
    assert open_bucket("b").measure(location) == (2, 8)
    assert open_bucket("b").remove(location) == 8
    assert open_bucket("b").measure(location) == (0, 0)


@pytest.mark.parametrize("same", [True, False])
def test_two_nodes_that_seal_one_location_at_once_agree(open_bucket: OpenBucket, same: bool) -> None:
    """With the same files both have sealed it; with others one has, the other is told, and nobody ever sees a mixture."""
    nodes = {name: open_bucket(name) for name in ("a", "b", "c")}
    staged = {name: artifacts.stage(KEY, RUN, 1) for name, artifacts in nodes.items()}
    for name, folder in staged.items():
        (folder / "model").write_bytes(b"same" if same else name.encode())
    at_once = threading.Barrier(len(nodes))

    def seal(name: str) -> str:
        at_once.wait()
        try:
            return nodes[name].seal(staged[name])
        except Failed as error:
            return error.code

    with ThreadPoolExecutor() as threads:
        said = dict(zip(nodes, threads.map(seal, nodes), strict=True))

    winners = [name for name, what in said.items() if what == AT]
    assert set(said.values()) == ({AT} if same else {AT, "bad_model_files"})
    assert len(winners) == (3 if same else 1)
    expected = b"same" if same else winners[0].encode()
    assert {contents(open_bucket(name).fetch(AT))["model"] for name in ("a", "b", "c", "d")} == {expected}


def _change(copy: Path) -> None:
    (copy / "model.skops").chmod(0o644)
    (copy / "model.skops").write_bytes(b"fitteD")


def _lose(copy: Path) -> None:
    (copy / "model.skops").unlink()


def _add(copy: Path) -> None:
    (copy / "more").write_bytes(b"")


def _link_file(copy: Path) -> None:
    (copy / "model.skops").unlink()
    (copy / "model.skops").symlink_to("/etc/hostname")


def _link_folder(copy: Path) -> None:
    copy.rename(copy.with_name("elsewhere"))
    copy.symlink_to("elsewhere")


def _link_parent(copy: Path) -> None:
    aside = copy.parent.parent / "elsewhere"
    copy.parent.rename(aside)
    copy.parent.symlink_to(aside)


def _file_for_folder(copy: Path) -> None:
    for file in copy.iterdir():
        file.unlink()
    copy.rmdir()
    copy.write_bytes(b"")


@pytest.mark.parametrize("harm", [_change, _lose, _add, _link_file, _link_folder, _link_parent, _file_for_folder])
def test_a_copy_that_was_harmed_is_fetched_again(open_bucket: OpenBucket, harm: Callable[[Path], None]) -> None:
    """The bucket has it whole: nobody needs to be told, and no link is followed."""
    location = open_bucket("a").seal(staged_model(open_bucket("a")))
    node = open_bucket("b")
    harm(node.fetch(location))

    copy = node.fetch(location)

    assert contents(copy) == WHOLE
    assert not any(path.is_symlink() for path in (copy, copy.parent, *copy.iterdir()))


def _objects(gateway: S3Gateway, prefix: str) -> dict[int, str]:
    """The objects of the files, by their sizes."""
    found = [meta for chunk in obstore.list(gateway.objects(prefix), f"{AT}/files") for meta in chunk]
    return {meta["size"]: meta["path"] for meta in found}


@pytest.mark.parametrize(
    ("content", "said"), [(b"fitteD", "was changed"), (b"fitte", "has 5 bytes, expected 6"), (b"", "has 0 bytes"), (None, "is gone")]
)
def test_an_object_that_is_not_what_was_sealed_is_damage(
    open_bucket: OpenBucket, gateway: S3Gateway, prefix: str, tmp_path: Path, content: bytes | None, said: str
) -> None:
    """A changed byte, a byte less, nothing, no object: it is told by the file's name, and no copy is left."""
    open_bucket("a").seal(staged_model(open_bucket("a")))
    name = _objects(gateway, prefix)[6]
    if content is None:
        obstore.delete(gateway.objects(prefix), name)
    else:
        obstore.put(gateway.objects(prefix), name, content)

    with pytest.raises(Failed, match=f"model.skops of the model {said}") as refused:
        open_bucket("b").fetch(AT)

    assert refused.value.code == "model_damaged"
    assert not list((tmp_path / "copies-of-b").rglob("model.skops"))


HASH = "0" * 64


@pytest.mark.parametrize(
    "sealed",
    [
        b"",
        b"[]",
        b'{"format": 2, "files": []}',
        b'{"format": 1, "files": [], "more": 1}',
        b'{"format": 1, "files": [{"name": "../../evil", "size_bytes": 1, "sha256": "%s"}]}' % HASH.encode(),
        b'{"format": 1, "files": [{"name": "/etc/evil", "size_bytes": 1, "sha256": "%s"}]}' % HASH.encode(),
        b'{"format": 1, "files": [{"name": "..", "size_bytes": 1, "sha256": "%s"}]}' % HASH.encode(),
        b'{"format": 1, "files": [{"name": "", "size_bytes": 1, "sha256": "%s"}]}' % HASH.encode(),
        b'{"format": 1, "files": [{"name": "a\\u0000b", "size_bytes": 1, "sha256": "%s"}]}' % HASH.encode(),
        b'{"format": 1, "files": [{"name": "x", "size_bytes": -1, "sha256": "%s"}]}' % HASH.encode(),
        b'{"format": 1, "files": [{"name": "x", "size_bytes": 1, "sha256": "../../x"}]}',
        b'{"format": 1, "files": [%s]}' % b", ".join([b'{"name": "x", "size_bytes": 1, "sha256": "%s"}' % HASH.encode()] * 2),
    ],
)
def test_a_list_of_files_that_no_node_wrote_is_refused(
    open_bucket: OpenBucket, gateway: S3Gateway, prefix: str, tmp_path: Path, sealed: bytes
) -> None:
    """Whoever may write the bucket can neither lead a node out of its folder nor make it stumble."""
    obstore.put(gateway.objects(prefix), f"{AT}/sealed.json", sealed)

    with pytest.raises(Failed) as refused:
        open_bucket("b").fetch(AT)

    assert refused.value.code == "model_damaged"
    assert not list(tmp_path.rglob("evil"))


def test_copies_serve_on_while_the_store_hangs(open_bucket: OpenBucket, gateway: S3Gateway) -> None:
    """Also those of the process before; who needs another one hears it in bounded time, and the next at once; then all is as it was."""
    artifacts = open_bucket("a", timeout_s=1.0)
    kept, other = artifacts.seal(staged_model(artifacts, 1)), artifacts.seal(staged_model(artifacts, 2))
    open_bucket("b").fetch(kept)
    again = open_bucket("b", timeout_s=1.0)
    took_s = []

    gateway.freeze()
    try:
        assert contents(again.fetch(kept)) == WHOLE
        for _ in range(2):
            begun_s = time.monotonic()
            with pytest.raises(Unavailable) as refused:
                again.fetch(other)
            took_s.append(time.monotonic() - begun_s)
            assert refused.value.code == "artifacts_unavailable"
        assert contents(again.fetch(kept)) == WHOLE
    finally:
        gateway.thaw()

    assert took_s[0] < 10
    assert took_s[1] < 0.5
    assert contents(_when_back(lambda: again.fetch(other))) == WHOLE


def test_what_was_to_be_sealed_waits_for_the_store(open_bucket: OpenBucket, gateway: S3Gateway) -> None:
    """It was killed: the files stay where they are, and the same call goes on when it is back."""
    artifacts = open_bucket("a", timeout_s=1.0)
    staged = staged_model(artifacts)
    gateway.kill()

    try:
        for _ in range(2):
            with pytest.raises(Unavailable) as refused:
                artifacts.seal(staged)
            assert refused.value.code == "artifacts_unavailable"
    finally:
        gateway.start()
    location = _when_back(lambda: artifacts.seal(staged))

    assert contents(open_bucket("b").fetch(location)) == WHOLE


def _when_back(ask: Callable[[], T]) -> T:
    """What is answered as soon as the store is asked again."""
    until_s = time.monotonic() + 30
    while True:
        try:
            return ask()
        except Unavailable:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.2)  # between two questions to a store that comes back


def test_the_copies_stay_within_their_bound(open_bucket: OpenBucket, tmp_path: Path) -> None:
    """What was asked for least recently goes first; what was asked for in the last minutes stays, whatever it takes."""
    artifacts = open_bucket("a")
    places = [artifacts.seal(staged_model(artifacts, attempt)) for attempt in (1, 2, 3, 4)]
    node = open_bucket("b", most_cached_bytes=2 * 8)
    copies = [node.fetch(place) for place in places[:3]]
    assert all(copy.exists() for copy in copies)
    for age_s, place in ((3000, places[1]), (2000, places[0])):
        used_s = time.time() - age_s
        os.utime(tmp_path / "copies-of-b" / ".sealed" / place, (used_s, used_s))

    node.fetch(places[3])

    assert [copy.exists() for copy in copies] == [False, False, True]
    assert contents(node.fetch(places[1])) == WHOLE


def test_wrong_credentials_are_told_without_showing_them(open_bucket: OpenBucket) -> None:
    """The store answers and refuses: asking again would change nothing, so it is told what to correct."""
    wrong = open_bucket("a", secret="not the secret")

    with pytest.raises(Unavailable) as refused:
        wrong.check()

    assert refused.value.code == "artifacts_unusable"
    assert "AWS_SECRET_ACCESS_KEY" in refused.value.mend
    assert not any(secret in str(refused.value) for secret in ("not the secret", SECRET))
    with pytest.raises(Unavailable):
        wrong.seal(staged_model(wrong))


class _Careless(http.server.BaseHTTPRequestHandler):
    """A store that takes every object, whatever was asked: there are such stores."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_DELETE(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test says what it saw."""


@pytest.fixture
def careless() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Careless) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_store_that_ignores_conditional_writes_is_refused(careless: str, tmp_path: Path) -> None:
    """Two nodes could seal one place there: nothing is written to it."""
    access = Access(endpoint=careless, region="us-east-1", access_key_id="a", secret_access_key="b")
    artifacts = S3Artifacts("s3://models", access, cache=tmp_path, local=FolderArtifacts(tmp_path), most_cached_bytes=0)

    for ask in (artifacts.check, lambda: artifacts.seal(staged_model(artifacts))):
        with pytest.raises(Unavailable, match="ignores conditional writes") as refused:
            ask()
        assert refused.value.code == "artifacts_unusable"


@pytest.mark.parametrize("url", ["s3://", "s3:///models", "s3://user:secret@models", "s3://models?x=1", "gs://models", "s3://mod els"])
def test_an_address_that_names_no_bucket_is_refused(url: str, tmp_path: Path) -> None:
    """Before anything is asked of anybody."""
    with pytest.raises(MillstreamError) as refused:
        S3Artifacts(url, Access(), cache=tmp_path, local=FolderArtifacts(tmp_path), most_cached_bytes=0).check()

    assert isinstance(refused.value, Invalid | Unavailable)
