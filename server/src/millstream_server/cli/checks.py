"""The checks of `millstream doctor`: each looks at one thing that is known to go wrong, and says how to mend it.

A check is a function from the examined data directory to findings. None of them changes anything that a node uses, and a check
that cannot be made is a fault itself, so that silence never passes for health.

Longer than other modules: a list of small checks that share nothing but their form.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shlex
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from millstream_server import __version__, app, config, data_directory
from millstream_server.cli.health import living, pid_in, troubles
from millstream_server.core.errors import Invalid, MillstreamError
from millstream_server.core.log import INPUT, TopicPartition

if TYPE_CHECKING:
    from millstream_server.core.release import Release
    from millstream_server.core.status import NodeStatus

MIB = 1024 * 1024
LEAST_FREE_BYTES = 200 * MIB
LEAST_OPEN_FILES = 512
"""A node opens a few files for each worker and each release; below this it fails at a few dozen workers."""
CLOCK_LEEWAY_MS = 5_000
CHECK_LOG_S = 20.0
"""The integrity check of a database reads all of it; of a large one only what it can in this time."""

State = Literal["ok", "note", "fault"]


class Finding(msgspec.Struct, frozen=True):
    """What one check found; a fault has a mend, a note is worth knowing and no fault."""

    check: str
    state: State
    detail: str
    mend: str = ""


class Patient:
    """The data directory under examination; `ports` is None where it cannot be opened, and the checks that need it are passed over."""

    def __init__(self, settings: config.Settings) -> None:
        self.settings = settings
        self.data_dir = settings.data_dir
        self.there = (settings.data_dir / "data.json").exists()
        self.ports: app.Ports | None = None

    @property
    def quoted(self) -> str:
        return shlex.quote(str(self.data_dir))


Check = Callable[[Patient], Iterator[Finding]]


def examine(data_dir: Path | None) -> Iterator[Finding]:
    """Make every check, in an order in which the first fault explains the later ones."""
    try:
        settings = config.load(data_dir, {})
        yield Finding("settings", "ok", f"of {settings.data_dir}")
    except Invalid as error:
        yield Finding("settings", "fault", error.message, "correct them; the values in force are shown by: millstream config show")
        settings = config.Settings(data_dir=config.data_dir(data_dir))
    patient = Patient(settings)
    told: set[str] = set()
    for name, check in CHECKS.items():
        try:
            yield from check(patient)
        except MillstreamError as error:
            if error.message not in told:  # a store that cannot be opened cannot be opened by later checks either
                told.add(error.message)
                yield Finding(name, "fault", error.message, error.mend)
        except Exception as error:  # a check that fails is a finding; the others are still worth making
            yield Finding(name, "fault", f"this could not be checked: {type(error).__name__}: {error}", "mend what the message names")
    if patient.ports is not None:
        patient.ports.close()


# --- the machine ----------------------------------------------------------------------------------------------------------


def check_python(patient: Patient) -> Iterator[Finding]:
    """The platform's own Python, and every interpreter that the settings name."""
    from millstream_server.environments import interpreters

    for named in patient.settings.environments.pythons:
        if interpreters.identify(Path(named).expanduser()) is None:
            variable = config.variable("environments.pythons")
            yield Finding("python", "fault", f"{variable} names {named}, which is no usable CPython", f"correct {variable}")
    found = interpreters.installed()
    if found:
        yield Finding("python", "ok", ", ".join(each.version for each in found))
    else:
        yield Finding("python", "fault", "no Python was found for environments of releases", "install Python 3.11 or newer")


def check_uv(patient: Patient) -> Iterator[Finding]:
    """uv is there and runs."""
    from millstream_server.environments.uv import find_uv, run_uv

    path = find_uv()
    anew = "install it anew: pip install --force-reinstall uv"
    try:
        said = run_uv(["--version"])
    except OSError as error:
        yield Finding("uv", "fault", f"{path} cannot be run: {error.strerror}", anew)
        return
    if said.code != 0:
        yield Finding("uv", "fault", f"{path} ends with code {said.code}: {said.stderr.strip()[:200]}", anew)
    else:
        yield Finding("uv", "ok", said.stdout.strip())


def check_sdk(patient: Patient) -> Iterator[Finding]:
    """The SDK's wheel came with the server: `build` puts it into every lock."""
    from millstream_server.shipped import SHIPPED_WHEELS, shipped_sdk

    wheel = shipped_sdk()
    if wheel is None:
        mend = "install millstream-server anew; in a checkout: make setup"
        yield Finding("sdk", "fault", f"the SDK's wheel is missing in {SHIPPED_WHEELS}", mend)
    else:
        yield Finding("sdk", "ok", wheel.name)


def check_sandbox(patient: Patient) -> Iterator[Finding]:
    """Bubblewrap is there and works, so that workers get namespaces of their own."""
    from millstream_server.node import sandbox

    wanted = patient.settings.worker.sandbox
    if wanted == "off":
        yield Finding("sandbox", "note", "off by the setting worker.sandbox: workers see what the node's user sees")
        return
    found = sandbox.find((), (), patient.settings.worker.tmp_bytes)
    if isinstance(found, sandbox.Missing):
        yield Finding("sandbox", "fault" if wanted == "required" else "note", f"workers have none: {found.reason}", found.mend)
    else:
        yield Finding("sandbox", "ok", f"bubblewrap {found.version}")


def check_open_files(patient: Patient) -> Iterator[Finding]:
    """The limit on open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST_OPEN_FILES:
        able = min(hard, 4096) if hard != resource.RLIM_INFINITY else 4096
        detail = f"only {soft} files may be open at once, {LEAST_OPEN_FILES} are needed"
        yield Finding("open files", "fault", detail, f"ulimit -n {max(able, LEAST_OPEN_FILES)}")
    else:
        yield Finding("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"limit {soft}")


# --- the data directory ---------------------------------------------------------------------------------------------------


def check_folder(patient: Patient) -> Iterator[Finding]:
    """The data directory can be written, and its disk has space."""
    folder = patient.data_dir
    if folder.exists() and not folder.is_dir():
        yield Finding("data dir", "fault", f"{folder} is a file", "give a folder with --data-dir")
        return
    if not patient.there:
        yield Finding("data dir", "note", f"there is none at {folder} yet; made by: millstream up --data-dir {patient.quoted}")
    here = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    try:
        with tempfile.TemporaryFile(dir=here) as probe:
            probe.write(b"\0" * 65_536)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        writable = f"let this user write it: chown -R $(id -un) {patient.quoted}; or mount it writable"
        mend = "free space on its disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else writable
        yield Finding("data dir", "fault", f"{here} cannot be written: {error.strerror}", mend)
    else:
        if patient.there:
            yield Finding("data dir", "ok", str(folder))
    yield from _space(here)


def _space(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    entries = os.statvfs(folder)
    if free < LEAST_FREE_BYTES:
        detail = f"{free // MIB} MB are free under {folder}, {LEAST_FREE_BYTES // MIB} MB are needed"
        yield Finding("space", "fault", detail, f"free space: du -xh --max-depth=2 {folder} | sort -h")
    elif entries.f_files and entries.f_favail < 1000:
        detail = f"only {entries.f_favail} more files fit on the disk of {folder}"
        yield Finding("space", "fault", detail, "remove files, or use another disk")
    else:
        yield Finding("space", "ok", f"{free // MIB} MB free")


def check_format(patient: Patient) -> Iterator[Finding]:
    """The data directory was written by a version that this one reads; opens its ports for the checks that follow."""
    if not patient.there:
        return
    patient.ports = app.open_ports(patient.settings)
    found = data_directory.described(patient.data_dir)
    if data_directory.is_newer(found.last, __version__):
        detail = f"format {found.format}; version {found.last} worked here, this is {__version__}, which knows the format"
        yield Finding("format", "note", detail, f"if nobody set it back on purpose, run version {found.last}")
    else:
        yield Finding("format", "ok", f"format {found.format}, of version {found.last}")


def check_schema(patient: Patient) -> Iterator[Finding]:
    """The store has a schema on which this version works: its own, or a newer one that only adds to it."""
    if patient.ports is None:
        return
    schema = patient.ports.store.schema
    by = f", made by version {schema.version}" if schema.version else ""
    if schema.number > schema.known:
        detail = f"schema {schema.number} of the store{by}; this is {__version__}, which knows {schema.known} and can work beside it"
        yield Finding("schema", "note", detail, f"if no upgrade is under way, run version {schema.version}")
    else:
        yield Finding("schema", "ok", f"schema {schema.number} of the store{by}")


def check_holder(patient: Patient) -> Iterator[Finding]:
    """Who holds the data directory: a node that is well, a process that says nothing, or nobody."""
    if not patient.there:
        return
    held_by = app.holder(patient.settings)
    if held_by is None:
        yield Finding("node", "note", f"no node works here; start one: millstream up --data-dir {patient.quoted}")
        return
    pid = pid_in(held_by)
    node = next((node for node in _living_nodes(patient) if node.pid == pid), None)
    if node is None:
        search = f"find it: fuser {shlex.quote(str(patient.data_dir / 'node.lock'))}"
        mend = f"see what it is: ps -p {pid} -o args; if it hangs: kill {pid}" if pid else search
        yield Finding("node", "fault", f"{held_by} holds the data directory, but no node reported in the last 10 s", mend)
        return
    yield Finding("node", "ok", f"{node.node}, pid {pid}")
    for trouble in troubles(node):
        yield Finding("node", "note" if trouble.note else "fault", trouble.said, trouble.mend or "millstream status")


def _living_nodes(patient: Patient) -> list[NodeStatus]:
    from millstream_server.core.status import decode_status

    if patient.ports is None:
        return []
    rows, now_ms = patient.ports.store.nodes(), time.time_ns() // 1_000_000
    alive = living(patient.ports, rows, now_ms)
    return [decode_status(row.status) for row in rows if row.node in alive]


def check_cluster(patient: Patient) -> Iterator[Finding]:
    """The Kafka cluster answers, takes our credentials, has the topics, and belongs to this store."""
    if patient.ports is None or not patient.settings.kafka.bootstrap:
        return
    from millstream_server.core.log import STORES
    from millstream_server.node.company import oldest_announcement
    from millstream_server.node.node import topic_specs

    log, started_s = patient.ports.log, time.monotonic()
    cluster = log.log_id  # raises where nobody answers, with the mend
    yield Finding("cluster", "ok", f"{cluster} at {patient.settings.kafka.bootstrap}, answered after {time.monotonic() - started_s:.2f} s")
    there = {topic.name for topic in log.topics()}
    missing = [spec.name for spec in topic_specs(0, shared=True) if spec.name not in there]
    if missing:
        yield Finding("topics", "note", f"made when a node starts: {', '.join(missing)}")
    else:
        yield Finding("topics", "ok", f"{len(there)} topics")
    announced = oldest_announcement(log) if STORES in there else None
    if announced is not None and announced.store != patient.ports.store.store_id:
        detail = f"the log belongs to the store {announced.store} of node {announced.node}, this one is {patient.ports.store.store_id}"
        yield Finding("store", "fault", detail, "use the others' store: --store, --artifacts, --index and --signing-key")


def check_shared_store(patient: Patient) -> Iterator[Finding]:
    """The shared store answers."""
    if patient.ports is None or not patient.settings.shared.store:
        return
    started_s = time.monotonic()
    nodes = len(patient.ports.store.nodes())
    detail = f"{patient.ports.store.store_id}, answered after {time.monotonic() - started_s:.2f} s, {nodes} nodes known"
    yield Finding("store", "ok", detail)


def check_artifacts(patient: Patient) -> Iterator[Finding]:
    """Model files can be kept where the settings say, and what is written once stays."""
    if patient.ports is None or not patient.settings.shared.artifacts:
        return
    started_s = time.monotonic()
    said = patient.ports.artifacts.check()  # raises where it does not, with the mend
    yield Finding("artifacts", "ok", f"{said}, answered after {time.monotonic() - started_s:.2f} s")


def check_index(patient: Patient) -> Iterator[Finding]:
    """The indexes of packages that are servers answer and take our login; the folder of wheels is there."""
    settings = patient.settings
    if settings.environments.wheelhouse:
        yield _wheelhouse(Path(settings.environments.wheelhouse).expanduser())
    if app.is_address(settings.shared.index):
        yield from _server(settings.shared.index, settings)
    for address in settings.environments.indexes:
        yield from _server(address, msgspec.structs.replace(settings, environments=config.EnvironmentsSettings()))


def _wheelhouse(folder: Path) -> Finding:
    if not folder.is_dir():
        mend = f"make it where an index can be reached: millstream wheelhouse NAME==VERSION {shlex.quote(str(folder))}"
        return Finding("index", "fault", f"the wheelhouse {folder} is no folder, and no index is asked", mend)
    return Finding("index", "ok", f"{len(list(folder.glob('*.whl')))} wheels in the wheelhouse {folder}; no index is asked")


def _server(address: str, settings: config.Settings) -> Iterator[Finding]:
    from urllib.parse import urlsplit

    index = app.simple_index(msgspec.structs.replace(settings, shared=config.SharedSettings(index=address)), settings.data_dir / "fetched")
    started_s = time.monotonic()
    try:
        index.entries("millstream-sdk")  # any package will do, an index need not have it: the list of all may be long
        lends = index.answers_for_others()
    except MillstreamError as error:
        yield Finding("index", "fault", error.message, error.mend)
        return
    who = f"as {index.login.username}" if index.login else "without a login"
    yield Finding("index", "ok", f"{index.address} {who}, answered after {time.monotonic() - started_s:.2f} s")
    parts = urlsplit(index.address)
    if index.login and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield Finding("index", "note", f"the password goes to {parts.netloc} unencrypted; give its https address")
    if lends:
        detail = f"{index.address} sends whoever asks for a package that it has not to another index: a misspelt name may bring anything"
        yield Finding("index", "note", f"{detail}; of pypiserver: --disable-fallback")


def check_databases(patient: Patient) -> Iterator[Finding]:
    """Log and store are whole, those of the data directory: SQLite's own quick check."""
    if not patient.there:
        return
    elsewhere = {"log": patient.settings.kafka.bootstrap, "store": patient.settings.shared.store}
    for name, what in (("log.sqlite", "log"), ("store.sqlite", "store")):
        path = patient.data_dir / name
        if elsewhere[what] and not path.exists():
            continue
        if not path.exists():
            yield Finding(what, "note", f"{name} is not there yet")
            continue
        broken = _quick_check(path)
        if broken:
            mend = f"stop the node, then save what can be read: sqlite3 {shlex.quote(str(path))} .recover; or restore a backup"
            yield Finding(what, "fault", f"{path} is damaged: {broken}", mend)
        else:
            yield Finding(what, "ok", f"{name}, {path.stat().st_size / MIB:.1f} MB, no damage found")


def _quick_check(path: Path) -> str:
    """What SQLite finds wrong with a database, or nothing."""
    import apsw

    deadline_s = time.monotonic() + CHECK_LOG_S
    try:
        with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.set_busy_timeout(5_000)
            connection.set_progress_handler(lambda: time.monotonic() > deadline_s, 100_000)
            said = [str(row[0]) for row in connection.execute("pragma quick_check(3)")]
    except apsw.InterruptError:
        return ""
    except apsw.Error as error:
        return str(error)
    return "" if said == ["ok"] else "; ".join(said)[:300]


def check_key(patient: Patient) -> Iterator[Finding]:
    """The key that signs models is there, is whole, and only its owner can read it."""
    if patient.ports is None:
        return
    path = patient.ports.signing_key
    if not path.exists():
        if patient.ports.store.models():
            mend = f"restore {path.name} and {path.name}.pub from a backup; with a new key every model must be trained again"
            yield Finding("key", "fault", f"{path} is missing, so no model here can be verified", mend)
        elif (patient.data_dir / "log.sqlite").exists():
            mend = f"restore it from a backup, or let a new one be made: millstream up --data-dir {patient.quoted}"
            yield Finding("key", "fault", f"{path} is missing", mend)
        else:
            yield Finding("key", "note", "made at the first start of a node")
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield Finding("key", "fault", f"others may read {path} (mode {mode:04o})", f"chmod 600 {shlex.quote(str(path))}")
        return
    key_id = getattr(patient.ports.signer, "key_id", "")  # reads it, and raises where it is no key
    yield Finding("key", "ok", f"{path.name}, mode 0600, id {key_id}")
    yield from _unproven(patient.ports)


def _unproven(ports: app.Ports) -> Iterator[Finding]:
    """Champions whose key is not known here, or retired: they answer until their workers end, and then no more."""
    champions = [(state.key, version) for state in ports.store.models() if (version := state.find(state.champion)) is not None]
    lost = [(key, version) for key, version in champions if ports.signer.standing(version.artifact.key_id) != "known"]
    if lost:
        key, version = lost[0]
        said = f"{len(lost)} models are signed by a key that is retired or not known here, {key} v{version.version} by one of them"
        yield Finding("key", "fault", said, f"train them again; or: millstream keys add FILE.pub (of {version.artifact.key_id[:16]!r})")


def check_clock(patient: Patient) -> Iterator[Finding]:
    """No record was written in the future: deadlines and retention count from append times."""
    shared = bool(patient.settings.kafka.bootstrap)
    if patient.ports is None or not (shared or (patient.data_dir / "log.sqlite").exists()):
        return
    now_ms = time.time_ns() // 1_000_000
    newest_ms, place = max(_last_records(patient.ports, only=INPUT if shared else ""), default=(0, ""))
    ahead_s = (newest_ms - now_ms) / 1000
    if newest_ms > now_ms + CLOCK_LEEWAY_MS:
        why = "this machine's clock or the broker's is wrong" if shared else "the clock was set back, or is wrong now"
        yield Finding(
            "clock", "fault", f"{place} was written {ahead_s:.0f} s in the future: {why}", "set the clock: timedatectl set-ntp true"
        )
    else:
        yield Finding("clock", "ok", "no record lies in the future")


def _last_records(ports: app.Ports, *, only: str = "") -> Iterator[tuple[int, str]]:
    """Append time and place of the newest record of each partition, of one topic or all."""
    for topic in ports.log.topics():
        if only and topic.name != only:
            continue
        start = {
            TopicPartition(topic.name, number): mark.end - 1
            for number, mark in enumerate(ports.log.watermarks(topic.name))
            if mark.end > mark.start
        }
        if not start:
            continue
        with contextlib.closing(ports.log.reader([topic.name], from_end=True, start=start)) as reader:
            for record in reader.poll(1000, 1.0 if only else 0.0):
                yield record.append_ms, f"{record.topic}/{record.partition}/{record.offset}"


def check_environments(patient: Patient) -> Iterator[Finding]:
    """Environments are complete and as they were installed, and the Pythons of the releases that answer are here."""
    if patient.ports is None:
        return
    live = [r for state in patient.ports.store.packages() for r in state.releases if r.status in ("DEPLOYING", "CURRENT", "KEPT")]
    for release in live:
        yield from _interpreter_of(release)
    root = patient.data_dir / "environments"
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    faults = [finding for folder in folders for finding in _environment(patient, folder)]
    yield from faults
    if not faults:
        yield Finding("environments", "ok", f"{len(folders)} of {len(live)} living releases" if folders else "none yet")


def _interpreter_of(release: Release) -> Iterator[Finding]:
    from millstream_server.environments import interpreters

    try:
        interpreters.find(release.manifest.requires_python, release.manifest.python, wanted_by=release.label)
    except MillstreamError as error:
        yield Finding("python", "fault", error.message, error.mend)


def _environment(patient: Patient, folder: Path) -> Iterator[Finding]:
    from millstream_server.environments import venv
    from millstream_server.environments.install import MANIFEST_FILE

    quoted = shlex.quote(str(folder))
    remove = f"stop the node, remove it (chmod -R u+w {quoted}; rm -r {quoted}) and start: it is made anew"
    if folder.name.startswith(".tmp-"):
        if app.holder(patient.settings) is None:
            yield Finding("environments", "note", f"{folder.name} was left by an interrupted installation; the next start removes it")
        return
    if not (folder / MANIFEST_FILE).is_file():
        yield Finding("environments", "fault", f"{folder} has no {MANIFEST_FILE}: it was never finished, or was changed", remove)
    elif not (folder / "bin" / "python").exists():
        yield Finding("environments", "fault", f"the Python of {folder.name} is gone", f"install it again, or {remove}")
    else:
        try:
            venv.verify(folder)
        except MillstreamError as error:
            yield Finding("environments", "fault", error.message, f"{error.mend}; then {remove}")


def check_retention(patient: Patient) -> Iterator[Finding]:
    """Records are kept longer than the work that they ask for may take."""
    node, kept_h = patient.settings.node, patient.settings.log.retention_hours
    longest_h = node.run_timeout_s * node.max_attempts / 3600
    if kept_h < longest_h:
        yield Finding(
            "retention",
            "fault",
            f"records are kept for {kept_h:g} h, a run may take {longest_h:g} h ({node.max_attempts} tries of {node.run_timeout_s:g} s)",
            f"set log.retention_hours to {longest_h:g} or more, or node.run_timeout_s lower",
        )
    else:
        yield Finding("retention", "ok", f"{kept_h:g} h")


CHECKS: dict[str, Check] = {
    "python": check_python,
    "uv": check_uv,
    "sdk": check_sdk,
    "sandbox": check_sandbox,
    "open files": check_open_files,
    "data dir": check_folder,
    "retention": check_retention,
    "format": check_format,
    "schema": check_schema,
    "cluster": check_cluster,
    "store": check_shared_store,
    "artifacts": check_artifacts,
    "index": check_index,
    "log": check_databases,
    "node": check_holder,
    "key": check_key,
    "clock": check_clock,
    "environments": check_environments,
}
"""Every check, by the name its findings carry where it says no other."""
