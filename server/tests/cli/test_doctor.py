"""`millstream doctor` finds faults that were really planted, and says how each is mended."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from millstream_server import app
from millstream_server.core.log import INPUT, Outgoing
from millstream_server.core.release import Manifest, PackageState, Release
from millstream_server.core.status import NodeStatus, encode_status
from millstream_server.core.store import NodeRow

from blackbox.package_index import Answer, BrokenIndex

from .conftest import clean_environment

DOCTOR = "from millstream_server.cli.main import main; main()"
Finding = dict[str, str]


def examined(data_dir: Path, *, python: str = sys.executable, before: list[str] | None = None, **environ: str) -> list[Finding]:
    """The findings of a doctor in a process of its own; `before` is a command that starts it."""
    done = subprocess.run(
        [*(before or []), python, "-c", DOCTOR, "doctor", "--json", "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        env=clean_environment(**environ),
        timeout=60,
        check=False,
    )
    said = json.loads(done.stdout)
    assert done.returncode == (4 if said["faults"] else 0), done.stderr
    findings: list[Finding] = said["findings"]
    return findings


def faults(findings: list[Finding]) -> dict[str, Finding]:
    """Faults by the check that found them; each has a mend."""
    found = {finding["check"]: finding for finding in findings if finding["state"] == "fault"}
    assert all(finding["mend"] for finding in found.values())
    return found


def only_fault(findings: list[Finding]) -> Finding:
    """The one fault that was planted: there must be no other."""
    found = list(faults(findings).values())
    assert len(found) == 1, findings
    return found[0]


def in_namespace(script: str) -> list[str]:
    """A command that runs what follows it in mount namespace of its own, after a shell script has changed it."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine gives processes no mount namespace of their own")
    return ["unshare", "-rm", "sh", "-ec", f'{script}\nexec "$@"', "sh"]


def test_a_healthy_data_directory_has_no_fault(data_dir: Path) -> None:
    """Every check is made and none finds anything; nobody works here, which is worth a note."""
    findings = examined(data_dir)

    assert faults(findings) == {}
    assert {"settings", "python", "uv", "sdk", "open files", "data dir", "space", "format", "log", "store", "key", "clock"} <= {
        finding["check"] for finding in findings
    }
    assert [finding["check"] for finding in findings if finding["state"] == "note"] == ["node"]


def test_before_the_first_start_there_is_nothing_to_mend(tmp_path: Path) -> None:
    """A data directory that is not there yet is a note with the command that makes it."""
    findings = examined(tmp_path / "not there")

    assert faults(findings) == {}
    assert any(f["check"] == "data dir" and "millstream up --data-dir" in f["detail"] for f in findings)


# --- the machine ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def python_without_uv(tmp_path: Path) -> str:
    """A virtual environment with our packages and without the program uv."""
    folder = tmp_path / "venv"
    own = Path(sys.prefix)
    (folder / "bin").mkdir(parents=True)
    shutil.copy(own / "pyvenv.cfg", folder)
    (folder / "lib").symlink_to(own / "lib")
    (folder / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    return str(folder / "bin" / "python")


def test_a_missing_uv_is_found(data_dir: Path, python_without_uv: str) -> None:
    """uv neither beside Python nor on PATH."""
    fault = only_fault(examined(data_dir, python=python_without_uv, PATH="/nowhere"))

    assert fault["check"] == "uv"
    assert fault["mend"] == "install it: pip install uv"


@pytest.mark.parametrize("script", ["#!/bin/sh\necho broken >&2\nexit 3\n", "#!/no/such/interpreter\n"])
def test_a_uv_that_does_not_run_is_found(data_dir: Path, python_without_uv: str, script: str) -> None:
    """A program of that name that fails, or cannot be started, is no uv."""
    broken = Path(python_without_uv).with_name("uv")
    broken.write_text(script)
    broken.chmod(0o755)

    fault = only_fault(examined(data_dir, python=python_without_uv, PATH="/nowhere"))

    assert fault["check"] == "uv"
    assert "pip install --force-reinstall uv" in fault["mend"]


def test_an_interpreter_that_was_named_and_cannot_be_used_is_found(data_dir: Path) -> None:
    """MILLSTREAM_PYTHONS names a program that is no Python."""
    fault = only_fault(examined(data_dir, MILLSTREAM_PYTHONS="/bin/false"))

    assert fault["check"] == "python"
    assert "/bin/false" in fault["detail"]


def test_a_release_whose_python_is_not_here_is_found(ports: app.Ports) -> None:
    """The current release was built for a Python that this machine does not have."""
    manifest = Manifest(1, "anomaly", "1.0.0", "1.0.0+abc", "3.99", ">=3.99", "0.1.0", "w", ("m",), "c", "l", ())
    assert ports.store.save_package(PackageState("anomaly", 1, (Release(manifest, "w.whl", "f" * 64, "CURRENT", deployed_ms=1),)))
    ports.close()

    fault = only_fault(examined(ports.data_dir))

    assert fault["check"] == "python"
    assert "anomaly==1.0.0 wants Python 3.99" in fault["detail"]
    assert "MILLSTREAM_PYTHONS" in fault["mend"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [(Answer(status=401), "refused the login of robot"), (Answer(b"<h1>Welcome</h1>"), "no page of a package index"), (None, "")],
    ids=["refused", "garbage", "healthy"],
)
def test_an_index_that_refuses_us_or_is_none_is_found(data_dir: Path, answer: Answer | None, words: str) -> None:
    """The index of releases and the further ones are asked with their logins; no password is shown."""
    with BrokenIndex() as server:
        if answer is not None:
            server.answers["/simple/millstream-sdk/"] = answer
        address = server.address.replace("//", "//robot:s3cret@")
        variables = {"MILLSTREAM_SHARED_INDEX": address, "MILLSTREAM_INDEXES": address}
        findings = [one for one in examined(data_dir, **variables) if one["check"] == "index"]

    assert [one["state"] for one in findings] == (["fault"] * 2 if words else ["ok"] * 2)
    assert all(words in one["detail"] for one in findings)
    assert "s3cret" not in str(findings)


def test_an_index_that_is_down_and_one_that_lends_from_elsewhere_are_found(data_dir: Path) -> None:
    """A server that answers for packages that it has not leaves the door open to a public namesake."""
    with BrokenIndex() as down:
        pass
    with BrokenIndex() as lending:
        lending.lends_to = "http://127.0.0.1:9/simple/"
        variables = {"MILLSTREAM_SHARED_INDEX": down.address, "MILLSTREAM_INDEXES": lending.address}
        findings = [one for one in examined(data_dir, **variables) if one["check"] == "index"]

    assert [one["state"] for one in findings] == ["fault", "ok", "note"]
    assert "connection refused" in findings[0]["detail"]
    assert "--disable-fallback" in findings[2]["detail"]


def test_a_wheelhouse_that_is_not_there_is_found(data_dir: Path) -> None:
    """Nothing could be installed: no index is asked where a wheelhouse is named."""
    fault = only_fault(examined(data_dir, MILLSTREAM_WHEELHOUSE=str(data_dir / "nowhere")))

    assert fault["check"] == "index"
    assert "millstream wheelhouse NAME==VERSION" in fault["mend"]


def test_a_low_limit_on_open_files_is_found(data_dir: Path) -> None:
    """Sixty-four open files are too few for a node with workers."""
    fault = only_fault(examined(data_dir, before=["sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh"]))

    assert fault["check"] == "open files"
    assert fault["mend"] == "ulimit -n 4096"


def test_settings_that_cannot_be_used_are_found_and_the_other_checks_still_made(data_dir: Path) -> None:
    """A broken settings file is one fault; what does not depend on it is looked at all the same."""
    (data_dir / "millstream.toml").write_text("[node]\nworkers = 'many'\nrolle = 'all'\n")

    findings = examined(data_dir)
    fault = only_fault(findings)

    assert fault["check"] == "settings"
    assert "did you mean node.role" in fault["detail"]
    assert len(findings) > 10


def test_a_retention_shorter_than_a_run_is_found(data_dir: Path) -> None:
    """Records that are kept for one hour while a run may take three."""
    fault = only_fault(examined(data_dir, MILLSTREAM_LOG_RETENTION_HOURS="1"))

    assert fault["check"] == "retention"
    assert "a run may take 3 h" in fault["detail"]


# --- the disk -------------------------------------------------------------------------------------------------------------


def test_a_data_directory_that_cannot_be_written_is_found(data_dir: Path) -> None:
    """The folder is mounted read-only."""
    read_only = in_namespace(f"mount --bind {data_dir} {data_dir}; mount -o remount,ro,bind {data_dir}")

    found = faults(examined(data_dir, before=read_only))

    assert "Read-only file system" in found["data dir"]["detail"]
    assert "chown" in found["data dir"]["mend"]


def test_a_disk_that_is_nearly_full_is_found(data_dir: Path) -> None:
    """A file system of eight megabytes."""
    small = in_namespace(
        f"cp -a {data_dir} {data_dir}.copy; mount -t tmpfs -o size=8m tmpfs {data_dir}; cp -a {data_dir}.copy/. {data_dir}"
    )

    fault = only_fault(examined(data_dir, before=small))

    assert fault["check"] == "space"
    assert "200 MB are needed" in fault["detail"]


def test_a_full_disk_is_found(data_dir: Path) -> None:
    """Not a byte is left where the data directory is."""
    full = in_namespace(
        f"cp -a {data_dir} {data_dir}.copy; mount -t tmpfs -o size=8m tmpfs {data_dir}; cp -a {data_dir}.copy/. {data_dir}\n"
        f"dd if=/dev/zero of={data_dir}/ballast bs=4k 2>/dev/null || true"
    )

    found = faults(examined(data_dir, before=full))

    assert "No space left on device" in found["data dir"]["detail"]
    assert found["data dir"]["mend"] == "free space on its disk"
    assert "space" in found


def test_a_disk_without_room_for_more_files_is_found(data_dir: Path) -> None:
    """A file system that holds three hundred files, however much space it has."""
    few = in_namespace(
        f"cp -a {data_dir} {data_dir}.copy; mount -t tmpfs -o size=400m,nr_inodes=300 tmpfs {data_dir}; cp -a {data_dir}.copy/. {data_dir}"
    )

    fault = only_fault(examined(data_dir, before=few))

    assert "more files fit on the disk" in fault["detail"]


def test_a_file_in_the_place_of_the_data_directory_is_found(tmp_path: Path) -> None:
    """The path names a file."""
    (tmp_path / "data").write_text("")

    done = subprocess.run(
        [sys.executable, "-c", DOCTOR, "doctor"],
        capture_output=True,
        text=True,
        env=clean_environment(MILLSTREAM_DATA_DIR=str(tmp_path / "data")),
        check=False,
    )

    assert done.returncode == 4
    assert f"FAULT data dir     {tmp_path / 'data'} is a file" in done.stdout


# --- the data directory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "words"), [(None, "format 99"), ("{", "cannot be read")])
def test_a_data_directory_of_a_newer_version_or_without_a_description_is_found(data_dir: Path, text: str | None, words: str) -> None:
    """data.json says a higher format, or says nothing; what needs the directory is passed over."""
    described = json.loads((data_dir / "data.json").read_text())
    (data_dir / "data.json").write_text(json.dumps(described | {"format": 99, "version": "9.0.0"}) if text is None else text)

    fault = only_fault(examined(data_dir))

    assert fault["check"] == "format"
    assert words in fault["detail"]


def _damage(path: Path) -> None:
    """Overwrite pages in the middle of a database, as a dying disk does."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        for place in range(size // 3 // 4096 * 4096, size, 3 * 4096):
            file.seek(place)
            file.write(b"\xa5" * 4096)


def test_a_damaged_log_is_found(ports: app.Ports) -> None:
    """Pages of the log's database hold garbage."""
    for _ in range(200):
        ports.log.append([Outgoing(INPUT, os.urandom(2000)) for _ in range(10)])
    ports.close()
    _damage(ports.data_dir / "log.sqlite")

    found = faults(examined(ports.data_dir))

    assert str(ports.data_dir / "log.sqlite") in found["log"]["detail"]
    assert ".recover" in found["log"]["mend"]


def test_a_store_that_is_no_database_is_found(data_dir: Path) -> None:
    """The store's file holds something else."""
    (data_dir / "store.sqlite").write_bytes(b"not a database" * 1000)

    assert "not a database" in faults(examined(data_dir))["store"]["detail"]


@pytest.fixture
def holder(data_dir: Path) -> Iterator[int]:
    """The pid of a process that holds the data directory's lock and is no node."""
    program = f"""
        import fcntl, os, time
        file = open({str(data_dir / "node.lock")!r}, "a+")
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0); file.write(f"pid {{os.getpid()}}: millstream up"); file.flush()
        print("held", flush=True)
        time.sleep(60)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.send_signal(signal.SIGKILL)


def test_a_process_that_holds_the_data_directory_and_says_nothing_is_found(data_dir: Path, holder: int) -> None:
    """The fault names the process that has the lock, and how to end it."""
    fault = only_fault(examined(data_dir))

    assert fault["check"] == "node"
    assert f"pid {holder}" in fault["detail"]
    assert f"kill {holder}" in fault["mend"]


def _say(ports: app.Ports, pid: int, unhealthy: tuple[str, ...] = ()) -> None:
    """Write the row of a living node."""
    facts = {"started_ms": 0, "store_id": "", "log_id": "", "accepting": True, "paused": False, "queued": 0, "lag": 0, "answered": 0}
    said = msgspec.convert(
        facts | {"node": "node-1", "instance": "i", "pid": pid, "role": "all", "version": "0.1.0", "runs_queued": 0, "runs_running": 0},
        NodeStatus,
    )
    status = encode_status(msgspec.structs.replace(said, unhealthy=unhealthy))
    ports.store.write_node(NodeRow("node-1", "i", time.time_ns() // 1_000_000, status))
    ports.close()


def test_a_living_node_is_no_fault_and_what_it_complains_of_is(ports: app.Ports, holder: int) -> None:
    """A node that reports is well; each of its sentences is a fault with the mend that it says."""
    _say(ports, holder)
    well = examined(ports.data_dir)
    _say(app.open_ports(ports.settings), holder, ("anomaly==2.0.0 is BROKEN: no wheel; mend: millstream deploy anomaly==2.0.1",))
    ill = only_fault(examined(ports.data_dir))

    assert faults(well) == {}
    assert (ill["detail"], ill["mend"]) == ("anomaly==2.0.0 is BROKEN: no wheel", "millstream deploy anomaly==2.0.1")


def test_a_lock_left_by_a_node_that_was_killed_is_no_fault(data_dir: Path) -> None:
    """The file may name a process that is gone: only a lock that is held counts."""
    with (data_dir / "node.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("pid 999999: millstream up")

    assert faults(examined(data_dir)) == {}


@pytest.mark.parametrize(
    ("plant", "words", "mend"),
    [
        (lambda key: key.chmod(0o644), "others may read", "chmod 600"),
        (lambda key: key.unlink(), "is missing", "backup"),
        (lambda key: key.write_text("-----BEGIN PRIVATE KEY-----\nnonsense\n"), "signing-key", ""),
    ],
    ids=["readable by others", "missing", "no key"],
)
def test_a_signing_key_that_cannot_be_trusted_is_found(data_dir: Path, plant: Callable[[Path], object], words: str, mend: str) -> None:
    """The key is missing, can be read by others, or is no key."""
    plant(data_dir / "signing-key")

    fault = only_fault(examined(data_dir))

    assert fault["check"] == "key"
    assert words in fault["detail"]
    assert mend in fault["mend"]


def test_records_from_the_future_are_found(data_dir: Path) -> None:
    """A record was written by a process whose clock was an hour ahead."""
    ahead = "import time; now = time.time_ns; time.time_ns = lambda: now() + 3_600_000_000_000; " + DOCTOR
    arguments = ["topics", "append", INPUT, "--data-dir", str(data_dir)]
    subprocess.run(
        [sys.executable, "-c", ahead, *arguments], input=b'{"id": "r"}\n', env=clean_environment(), capture_output=True, check=True
    )

    fault = only_fault(examined(data_dir))

    assert fault["check"] == "clock"
    assert re.search(r"/0 was written 3[56]\d\d s in the future", fault["detail"])


# --- environments ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def environment(data_dir: Path) -> Path:
    """A sealed environment with one distribution, as the installer leaves it."""
    prefix = data_dir / "environments" / "1.0.0+abc"
    packages = prefix / "lib" / "python3.11" / "site-packages"
    (packages / "thing-1.dist-info").mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (packages / "thing.py").write_text("answer = 42\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"answer = 42\n").digest()).rstrip(b"=").decode()
    (packages / "thing-1.dist-info" / "RECORD").write_text(f"thing.py,sha256={digest},12\nthing-1.dist-info/RECORD,,\n")
    (prefix / "MANIFEST.json").write_text("{}")
    return prefix


def test_a_whole_environment_is_no_fault(data_dir: Path, environment: Path) -> None:
    """What was installed is there, byte for byte."""
    assert faults(examined(data_dir)) == {}


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lambda prefix: (prefix / "MANIFEST.json").unlink(), "has no MANIFEST.json"),
        (
            lambda prefix: (prefix / "lib/python3.11/site-packages/thing.py").write_text("answer = 43\n"),
            "thing.py of thing-1 has other contents",
        ),
        (lambda prefix: (prefix / "lib/python3.11/site-packages/thing.py").unlink(), "thing.py of thing-1 is missing"),
        (lambda prefix: ((prefix / "bin/python").unlink(), (prefix / "bin/python").symlink_to("/gone")), "the Python of 1.0.0+abc is gone"),
    ],
    ids=["unsealed", "changed", "incomplete", "without its Python"],
)
def test_an_environment_that_is_not_as_it_was_installed_is_found(
    data_dir: Path, environment: Path, plant: Callable[[Path], object], words: str
) -> None:
    """An environment without its seal, with a changed or missing file, or without its interpreter."""
    plant(environment)

    fault = only_fault(examined(data_dir))

    assert fault["check"] == "environments"
    assert words in fault["detail"]
    assert "rm -r" in fault["mend"]


def test_what_an_interrupted_installation_left_is_a_note(data_dir: Path) -> None:
    """The next start removes it by itself."""
    (data_dir / "environments" / ".tmp-abc").mkdir(parents=True)

    findings = examined(data_dir)

    assert faults(findings) == {}
    assert any(".tmp-abc was left by an interrupted installation" in finding["detail"] for finding in findings)
