"""What a server's index promises beyond the contract: the login is found and kept to itself, and a server that misbehaves is told."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from millstream_server.adapters.simple_index import Login, SimpleIndex, find_login, login_for
from millstream_server.core.errors import Invalid, Unavailable
from millstream_server.environments.uv import run_uv

from blackbox.package_index import USER, Answer, BrokenIndex, PackageIndex, write_wheel

OpenIndex = Callable[..., SimpleIndex]


@pytest.fixture
def broken() -> Iterator[BrokenIndex]:
    """A server without answers yet."""
    with BrokenIndex() as server:
        yield server


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """An installable wheel of shop 1.0.0."""
    return write_wheel(tmp_path / "built", "shop", "1.0.0")


# --- who we are -----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_login_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own netrc is read."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_a_login_in_the_address_comes_first_and_leaves_the_address() -> None:
    """The address that is shown and kept has none in it."""
    assert find_login("https://me:a%2Fb@host/simple/", "other", "word") == ("https://host/simple/", Login("me", "a/b"))


def test_the_settings_give_what_the_address_lacks() -> None:
    """A token alone goes with the name that indexes have agreed on for it."""
    assert find_login("https://me@host/simple/", "other", "word")[1] == Login("me", "word")
    assert find_login("https://host/simple/", "other", "word")[1] == Login("other", "word")
    assert find_login("https://host/simple/", "", "token")[1] == Login("__token__", "token")


def test_netrc_gives_the_login_of_its_host(tmp_path: Path) -> None:
    """The file that curl, pip and uv read."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine host login me password word\n")
    netrc.chmod(0o600)

    assert find_login("https://host/simple/")[1] == Login("me", "word")
    assert find_login("https://elsewhere/simple/")[1] is None
    assert login_for("https://host/files/shop.whl", ["https://elsewhere/simple/"]) == Login("me", "word")


def test_a_keyring_gives_the_password_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked by the program that the project keyring installs, by address and then by host."""
    program = tmp_path / "bin" / "keyring"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1 $2 $3" = "get host me" ] && echo word\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    assert find_login("https://me@host/simple/")[1] == Login("me", "word")
    assert find_login("https://other@host/simple/")[1] == Login("other", "")


def test_a_login_shows_no_password() -> None:
    """Whoever prints one by mistake prints a name."""
    assert "word" not in f"{Login('me', 'word')} {Login('me', 'word')!r}"


@pytest.mark.parametrize("address", ["bare", "wrong"])
def test_a_login_that_is_missing_or_wrong_is_told_with_how_to_give_it(
    server: PackageIndex, opened: OpenIndex, wheel: Path, address: str
) -> None:
    """Reading and publishing say the same, and neither shows a password."""
    index = opened(server.bare if address == "bare" else server.bare.replace("//", f"//{USER}:wrong-word@"))

    for attempt in (lambda: index.entries("shop"), index.packages, lambda: index.publish(wheel), lambda: index.fetch("shop", "1.0.0")):
        with pytest.raises(Unavailable) as refused:
            attempt()
        assert refused.value.code == "index_refused"
        assert "MILLSTREAM_INDEX_PASSWORD" in refused.value.mend
        assert "wrong-word" not in str(refused.value)
    assert list(server.wheels.iterdir()) == []


def test_an_upload_that_is_refused_is_told_even_where_reading_is_free(tmp_path: Path, wheel: Path, opened: OpenIndex) -> None:
    """pypiserver guards uploads alone by default."""
    with BrokenIndex() as server:
        server.answers["/simple/shop/"] = Answer(b"<title>Links for shop</title>")
        server.post_status = 403

        with pytest.raises(Unavailable, match=r"did not take shop==1\.0\.0: the login of me") as refused:
            opened(server.address.replace("//", "//me:word@")).publish(wheel)

    assert refused.value.code == "index_refused"


def test_an_address_that_takes_no_uploads_is_told(server: PackageIndex, opened: OpenIndex, wheel: Path) -> None:
    """The simple pages are not where wheels are sent to."""
    index = opened(server.address, upload_address=f"{server.bare}shop/")

    with pytest.raises(Unavailable, match="takes no uploads") as refused:
        index.publish(wheel)

    assert "shared.index_upload" in refused.value.mend


def test_the_login_stays_with_the_server_that_it_belongs_to(broken: BrokenIndex, wheel: Path, opened: OpenIndex) -> None:
    """A page may name files on other servers, and files may move; neither learns the password."""
    with BrokenIndex() as elsewhere:
        elsewhere.page("shop", wheel)
        broken.page(
            "shop", wheel, served=Answer(status=302, headers={"Location": elsewhere.address.replace("simple/", f"files/{wheel.name}")})
        )

        path, _ = opened(broken.address.replace("//", "//me:word@")).fetch("shop", "1.0.0")

    expected = "Basic " + base64.b64encode(b"me:word").decode()
    assert path.read_bytes() == wheel.read_bytes()
    assert {login for _, login in broken.asked} == {expected}
    assert [login for _, login in elsewhere.asked] == [""]


def test_no_process_shows_a_password_while_uv_asks(broken: BrokenIndex, tmp_path: Path) -> None:
    """Arguments of processes can be read by every user of the machine."""
    seen: list[str] = []

    def look() -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(path.read_bytes().decode("utf-8", "replace"))
            except OSError:
                continue  # it has ended

    broken.on_asked = look
    wanted = tmp_path / "wanted.in"
    wanted.write_text("shop\n")

    address = broken.address.replace("//", "//me:s3cret-word@")
    ended = run_uv(["pip", "compile", "--no-cache", "--index", address, f"--default-index={address}", wanted])

    assert any("pip\0compile" in line for line in seen)
    assert not [line for line in seen if "s3cret-word" in line]
    assert {login for _, login in broken.asked if login} == {"Basic " + base64.b64encode(b"me:s3cret-word").decode()}
    assert "s3cret-word" not in ended.stderr


# --- servers that misbehave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(b"<html><body><h1>Please log in</h1><form></form></body></html>"), "answered a page that lists no file"),
        (Answer(b'{"message": "hello"}', content_type="application/json"), "answered JSON that is no page"),
        (Answer(b"\x89PNG", content_type="image/png"), "answered an answer of type image/png"),
        (Answer(b"oops", status=500), "answered 500 Internal Server Error"),
        (Answer(b"x" * 1000, cut=10), "broke off after 10 of 1000 bytes"),
        (Answer(b"x" * 1000, drip_s=0.1), "too slow"),
        (Answer(b"x" * 1000, drip_s=30.0), "said nothing for too long"),
    ],
    ids=["login page", "other JSON", "picture", "error", "cut", "slow", "silent"],
)
def test_what_is_no_page_of_an_index_is_told(broken: BrokenIndex, opened: OpenIndex, answer: Answer, says: str) -> None:
    """Nothing that such a server says is taken for an empty index."""
    broken.answers["/simple/shop/"] = answer

    with pytest.raises(Unavailable, match=says) as refused:
        opened(broken.address, silence_s=1.0, page_s=0.5).entries("shop")

    assert refused.value.code == "index_unavailable"
    assert f"{broken.address}shop/" in refused.value.message


def test_an_index_that_is_down_is_told(opened: OpenIndex) -> None:
    """Who is asked and why that failed."""
    with BrokenIndex() as server:
        address = server.address

    with pytest.raises(Unavailable, match="cannot be reached: connection refused") as refused:
        opened(address).fetch("shop", "1.0.0")

    assert refused.value.code == "index_unavailable"


def test_another_file_under_the_same_name_and_hash_is_refused(broken: BrokenIndex, opened: OpenIndex, wheel: Path, tmp_path: Path) -> None:
    """The bytes count, not what the page says of them; nothing of the file stays."""
    other = write_wheel(tmp_path / "other", "shop", "1.0.0", says="evil")
    broken.page("shop", wheel, served=Answer(other.read_bytes()))

    with pytest.raises(Invalid, match=r"shop-1\.0\.0-py3-none-any\.whl as served has sha256") as refused:
        opened(broken.address).fetch("shop", "1.0.0")

    assert refused.value.code == "hash_mismatch"
    assert list((tmp_path / "fetched").iterdir()) == []


def test_a_wheel_that_breaks_off_is_told(broken: BrokenIndex, opened: OpenIndex, wheel: Path, tmp_path: Path) -> None:
    """Half a wheel is not kept."""
    broken.page("shop", wheel, served=Answer(wheel.read_bytes(), cut=100))

    with pytest.raises(Unavailable, match="broke off after 100 of"):
        opened(broken.address).fetch("shop", "1.0.0")

    assert list((tmp_path / "fetched").iterdir()) == []


def test_what_was_fetched_is_not_fetched_again_unless_it_was_damaged(broken: BrokenIndex, opened: OpenIndex, wheel: Path) -> None:
    """The kept copy is compared with its hash each time."""
    broken.page("shop", wheel)
    index = opened(broken.address)

    path, _ = index.fetch("shop", "1.0.0")
    index.fetch("shop", "1.0.0")
    assert [asked for asked, _ in broken.asked].count(f"/files/{wheel.name}") == 1

    path.write_bytes(b"damaged")
    assert index.fetch("shop", "1.0.0")[0].read_bytes() == wheel.read_bytes()


def test_what_the_server_sends_elsewhere_is_not_on_it(broken: BrokenIndex, opened: OpenIndex, wheel: Path) -> None:
    """pypiserver by default sends askers for unknown packages to the public index, where anybody may have published the name."""
    with BrokenIndex() as public:
        public.page("shop", wheel)
        broken.answers["/simple/shop/"] = Answer(status=302, headers={"Location": f"{public.address}shop/"})

        with pytest.raises(Invalid) as refused:
            opened(broken.address).fetch("shop", "1.0.0")
        assert public.asked == []

    assert refused.value.code == "not_published"


def test_a_server_that_tells_no_hash_is_served_with_that_of_the_bytes(broken: BrokenIndex, opened: OpenIndex, wheel: Path) -> None:
    """Deploying records it, and nodes hold the server to it."""
    broken.page("shop", wheel)
    broken.answers["/simple/shop/"] = Answer(f'<html><a href="../../files/{wheel.name}">{wheel.name}</a></html>'.encode())
    index = opened(broken.address)

    _, entry = index.fetch("shop", "1.0.0")

    assert len(entry.sha256) == 64
    assert not index.publish(wheel)  # the same bytes


def test_pages_in_json_are_read(broken: BrokenIndex, opened: OpenIndex, wheel: Path) -> None:
    """PEP 691, as devpi and Artifactory answer it."""
    broken.page("shop", wheel)
    told = broken.answers["/simple/shop/"].body.decode().partition("sha256=")[2][:64]
    kind = "application/vnd.pypi.simple.v1+json"
    file = f'{{"filename": "{wheel.name}", "url": "/files/{wheel.name}", "hashes": {{"sha256": "{told}"}}}}'
    broken.answers["/simple/shop/"] = Answer(f'{{"name": "shop", "files": [{file}]}}'.encode(), content_type=kind)
    broken.answers["/simple/"] = Answer(b'{"projects": [{"name": "Shop"}]}', content_type=kind)

    assert [(one.package, one.sha256) for one in opened(broken.address).entries()] == [("shop", told)]
    assert opened(broken.address).fetch("shop", "1.0.0")[0].read_bytes() == wheel.read_bytes()


def test_a_mirror_of_thousands_is_not_listed_whole(broken: BrokenIndex, opened: OpenIndex, wheel: Path) -> None:
    """Each package is a page; one that is named is looked up all the same."""
    broken.page("shop", wheel)
    broken.answers["/simple/"] = Answer("".join(f'<a href="p{n}/">p{n}</a>' for n in range(501)).encode())
    index = opened(broken.address)

    assert index.entries() == []
    assert [path for path, _ in broken.asked] == ["/simple/"]
    assert len(index.entries("shop")) == 1


def test_files_of_other_packages_and_kinds_are_left_out(broken: BrokenIndex, opened: OpenIndex) -> None:
    """A page may list source distributions, and a bad one anything."""
    names = ("shop-1.0.0.tar.gz", "barn-1.0.0-py3-none-any.whl", "..%2Fshop-1.0.0-py3-none-any.whl", "shop-2.0.0-py3-none-any.whl")
    links = "".join(f'<a href="/files/{name}">{name}</a>' for name in names)
    links += '<a href="file:///files/shop-3.0.0-py3-none-any.whl">a file of the asker</a>'
    broken.answers["/simple/shop/"] = Answer(f"<html>{links}</html>".encode())

    assert [entry.filename for entry in opened(broken.address).entries("shop")] == ["shop-2.0.0-py3-none-any.whl"]


def test_a_certificate_that_nobody_vouches_for_is_told_with_how_to_trust_it(
    tmp_path: Path, opened: OpenIndex, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company's own authority is named by the variable that uv reads too."""
    certificate = self_signed(tmp_path / "own.pem")
    with BrokenIndex(certificate) as server:
        server.page("shop", wheel)

        with pytest.raises(Unavailable, match="certificate that is not trusted here: self-signed certificate") as refused:
            opened(server.address).fetch("shop", "1.0.0")
        assert "SSL_CERT_FILE" in refused.value.mend

        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert opened(server.address).fetch("shop", "1.0.0")[1].version == "1.0.0"


def self_signed(path: Path) -> Path:
    """A certificate of 127.0.0.1 that only vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
    return path
