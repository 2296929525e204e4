"""The one settings tree: defaults < `<data_dir>/millstream.toml` < environment `MILLSTREAM_*` < flags of the command.

Commands that ask a running node follow it: where it is connected to a cluster or a shared store (`<data_dir>/connections.json`,
which it writes at its start), so are they, unless they are told otherwise.

Called by the command line, which hands the tree to `app.py`. A setting is spelled `section.name`: in the file as `name` under
`[section]`, in the environment as `MILLSTREAM_SECTION_NAME`, with the exceptions in `SHORT_NAMES`. Sizes take a suffix
(`64MiB`); lists are words as a shell parts them (paths: parted by `:`, as in PATH), or a JSON list. Invariant: all faults are
reported together, and nothing that was given is ignored: an unknown key is a fault that names its near misses.

Longer than other modules: nearly half is the settings themselves with what each means, which the reference is generated from.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import msgspec
from msgspec import Meta

from millstream_server.core.errors import Invalid

FILE_NAME = "millstream.toml"
CONNECTIONS = "connections.json"
"""What the node that worked last on a data directory was connected to."""
ENV_PREFIX = "MILLSTREAM_"
DATA_DIR_VARIABLE = "MILLSTREAM_DATA_DIR"
SHORT_NAMES = {
    "environments.pythons": "MILLSTREAM_PYTHONS",
    "environments.index_arguments": "MILLSTREAM_INDEX_ARGUMENTS",
    "environments.indexes": "MILLSTREAM_INDEXES",
    "environments.index_username": "MILLSTREAM_INDEX_USERNAME",
    "environments.index_password": "MILLSTREAM_INDEX_PASSWORD",
    "environments.wheelhouse": "MILLSTREAM_WHEELHOUSE",
}
"""Settings whose variable leaves out the section."""

MIB = 1024 * 1024


class Said(str):
    """A value of `--set`, which its origin then names; other flags have names of their own."""


Count = Annotated[int, Meta(ge=1, le=10_000_000)]
CountOrNone = Annotated[int, Meta(ge=0, le=10_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=1e8)]
Bytes = Annotated[int, Meta(ge=1, le=1 << 50)]
BytesOrNone = Annotated[int, Meta(ge=0, le=1 << 50)]
Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,64}\Z")]


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The node: what it takes, how long things may last, how many processes it keeps."""

    name: Name = "node-1"
    """What this node is called in results, status and log; the same name after a restart."""

    role: Literal["all", "inference", "training"] = "all"
    """Which work the node takes."""

    max_batch_size: Count = 500
    """Most requests that go to a worker at once."""

    max_batch_bytes: Bytes = 8 * MIB
    """Most bytes of parameters that go to a worker at once; one larger request goes alone."""

    max_queued_requests: Count = 20_000
    """Requests in the node's memory at which it stops reading the log until some are answered."""

    max_queued_bytes: Bytes = 64 * MIB
    """Bytes of requests in the node's memory at which it stops reading the log until some are answered."""

    attempt_timeout_s: Seconds = 30.0
    """Seconds that one attempt of an inference request may run, where its pipeline does not say otherwise."""

    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    """Attempts charged to a request or run before it ends dead."""

    commit_interval_ms: Annotated[int, Meta(ge=1, le=10_000)] = 50
    """Milliseconds after which results are committed, at the latest, even though their pool still has batches in flight."""

    workers: Annotated[int, Meta(ge=1, le=1024)] = 1
    """Worker processes of one release that answer requests."""

    spare_workers: Annotated[int, Meta(ge=0, le=64)] = 1
    """Worker processes that a release with traffic keeps imported and waiting, to stand in for one that dies or loads a model."""

    training_slots: Annotated[int, Meta(ge=0, le=1024)] = 2
    """Runs that this node works on at once."""

    run_lease_s: Seconds = 10.0
    """Seconds after which a run whose node fell silent is claimed by another."""

    run_timeout_s: Seconds = 3600.0
    """Seconds that one attempt of a run may take, where its pipeline does not say otherwise."""

    deploy_timeout_s: Seconds = 600.0
    """Seconds after which a deployment that is not ready is given up."""

    keep_previous: Annotated[int, Meta(ge=0, le=100)] = 1
    """Releases of a package that are kept ready for a way back although no model needs them; those last current first."""

    sleep_after_s: Seconds = 900.0
    """Seconds without a request after which a release's workers end; its next request starts them again."""

    worker_memory_bytes: BytesOrNone = 0
    """Memory that one worker, with all models that it holds, may use before it is ended; 0: half of this machine's memory."""

    models_memory_bytes: BytesOrNone = 0
    """Memory that all workers which answer requests may use together before models leave them, those asked for least recently first;
    0: half of this machine's memory."""

    worker_ready_timeout_s: Seconds = 60.0
    """Seconds that a worker may take to import its release."""

    drain_timeout_s: Seconds = 20.0
    """Seconds that a node that was told to stop gives what is in flight."""

    reply_topics: tuple[str, ...] = ("ml.reply.*",)
    """Topics, as shell patterns, that a request may name in `reply_to`."""

    metrics_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """Port of 127.0.0.1 on which Prometheus may ask for metrics; 0: none."""


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The log: on either kind its records, on the embedded one its file."""

    max_record_bytes: Annotated[int, Meta(ge=1024, le=512 * MIB)] = 8 * MIB
    """Largest record, key and headers included."""

    retention_hours: Annotated[float, Meta(gt=0, le=1e6)] = 168.0
    """Hours that records of topics without compaction are kept; unanswered requests are kept as long."""

    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """FULL survives a power cut; NORMAL is faster and may lose the last commits in one (never in a crash of a process)."""


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A Kafka cluster in place of the embedded log."""

    bootstrap: str = ""
    """`HOST:PORT[,HOST:PORT...]` of a cluster; empty: the embedded log of the data directory."""

    options: dict[str, str | int | float | bool] = {}
    """Further settings of librdkafka, such as `security.protocol`, `sasl.username`, `ssl.ca.location`; they win over ours."""

    replication: Annotated[int, Meta(ge=0, le=100)] = 0
    """Replicas of the topics that a node makes; 0 leaves it to the cluster."""


class SharedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What several nodes share; empty: what the data directory has."""

    store: str = ""
    """URL of the store, `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`."""

    artifacts: str = ""
    """Folder of the models' files, or `s3://BUCKET/PREFIX`."""

    index: str = ""
    """Folder of the published releases, or address of the simple pages of a package index, as `https://HOST/simple/`."""

    index_upload: str = ""
    """Address that takes uploads to that index; empty: its address less the last `simple/`."""

    signing_key: str = ""
    """File of the key that signs models and proves them."""


class S3Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The S3 store of `shared.artifacts`; what is empty is found as AWS's tools find it (`AWS_ENDPOINT_URL`, ...)."""

    endpoint: str = ""
    """Address of a store that is not AWS's own, `https://HOST:PORT`."""

    region: str = ""
    """Region of the bucket; where nobody says one, `us-east-1`."""

    access_key_id: str = ""
    """Whom requests are signed for."""

    secret_access_key: str = ""
    """What they are signed with; better said in `AWS_SECRET_ACCESS_KEY`."""

    session_token: str = ""
    """Of credentials that end."""

    timeout_s: Seconds = 10.0
    """Seconds that one request to the store may take; it is tried three times."""

    cache_bytes: BytesOrNone = 20 * 1024 * MIB
    """Space on this machine for copies of model files; those in use stay whatever they take."""


class MlflowSettings(msgspec.Struct, frozen=True, kw_only=True):
    """MLflow, which mirrors runs and models for data scientists and their tools."""

    uri: str = "auto"
    """`http://HOST:PORT` of an MLflow server; `embedded`: a database and a folder, `<data_dir>/mlflow`; `auto`: embedded where
    `millstream-server[mlflow]` is installed; `off`: none."""

    max_copy_bytes: BytesOrNone = 64 * MIB
    """Files of a model version up to this size are copied to an MLflow server; larger ones are named there by their place."""


class LogbookSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The readable log of node and workers, `<data_dir>/logs/node.jsonl`."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lines below this level are not written."""

    max_bytes: Annotated[int, Meta(ge=64 * 1024, le=1 << 40)] = 64 * MIB
    """Size at which the file is put aside and a new one begun."""

    keep: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Files put aside that are kept."""


class EnvironmentsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How environments of releases are built."""

    index_arguments: tuple[str, ...] = ()
    """Arguments that `uv` is given to find packages, such as `--index-url URL`; empty: as uv itself is configured."""

    indexes: tuple[str, ...] = ()
    """Addresses of further package indexes, asked in this order, after that of the releases and before uv's own: a name that one of
    them has is never taken from a later one."""

    index_username: str = ""
    """Name at the index of the releases, where its address holds none."""

    index_password: str = ""
    """Password or token at the index of the releases, where its address, netrc and keyring hold none."""

    wheelhouse: str = ""
    """Folder of wheels from which environments are made, made by `millstream wheelhouse`; no index is asked then."""

    pythons: tuple[str, ...] = ()
    """Python interpreters to choose from, as paths; those found on PATH come after them."""


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process may see, reach and use; how many and how long is said with the node."""

    sandbox: Literal["auto", "required", "off"] = "auto"
    """Whether workers get namespaces of their own by bubblewrap: where it works, always (else the node does not start), or never."""

    network: Literal["none", "runs", "all"] = "runs"
    """Which workers in a sandbox reach the network, this machine's own ports too: none, those of runs, or all."""

    readable_paths: tuple[str, ...] = ()
    """Files and folders of this machine that workers in a sandbox may read beside the system's libraries and their environment."""

    writable_paths: tuple[str, ...] = ()
    """Files and folders of this machine that workers in a sandbox may write."""

    tmp_bytes: Bytes = 512 * MIB
    """Size of the /tmp that each worker in a sandbox has for itself, in memory; what lies there counts as the worker's memory."""

    max_processes: Annotated[int, Meta(ge=16, le=1_000_000)] = 512
    """Processes and threads that one worker in a sandbox may have."""

    max_open_files: Annotated[int, Meta(ge=64, le=1_000_000)] = 4096
    """Files that each process of a worker may have open."""

    max_file_bytes: Bytes = 16 * 1024 * MIB
    """Size that a file may reach which a worker writes."""

    cpus: Annotated[float, Meta(ge=0, le=1024)] = 0.0
    """Cores that one worker may use, where control groups can be written; 0: all."""

    isolation: Literal["shared", "tenant"] = "shared"
    """Who shares the workers that answer requests of a release: all tenants, or each has a pool, and a process, of its own."""

    isolated_packages: tuple[Name, ...] = ()
    """Packages each of whose tenants has a pool of its own, where isolation is shared for the others."""

    max_tenant_pools: Count = 16
    """Pools of single tenants that may have workers at once; beyond, the one that was called least recently sleeps."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting of this process. `origins` maps `section.name` (and `data_dir`) to where its value comes from."""

    data_dir: Path
    """Folder that holds log, store, models, environments and keys."""

    node: NodeSettings = NodeSettings()
    log: LogSettings = LogSettings()
    kafka: KafkaSettings = KafkaSettings()
    shared: SharedSettings = SharedSettings()
    s3: S3Settings = S3Settings()
    mlflow: MlflowSettings = MlflowSettings()
    logbook: LogbookSettings = LogbookSettings()
    environments: EnvironmentsSettings = EnvironmentsSettings()
    worker: WorkerSettings = WorkerSettings()
    origins: dict[str, str] = {}


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "node": NodeSettings,
    "log": LogSettings,
    "kafka": KafkaSettings,
    "shared": SharedSettings,
    "s3": S3Settings,
    "mlflow": MlflowSettings,
    "logbook": LogbookSettings,
    "environments": EnvironmentsSettings,
    "worker": WorkerSettings,
}
_FIELDS: dict[str, object] = {
    f"{section}.{name}": hint for section, struct in SECTIONS.items() for name, hint in get_type_hints(struct, include_extras=True).items()
}
CONNECTED = tuple(name for name in _FIELDS if name.startswith("shared.") or name == "kafka.bootstrap")
"""Settings that connect a node to what it may share; all empty: it has everything in its data directory."""
_LISTS = {name for name, hint in _FIELDS.items() if hint in (tuple[str, ...], tuple[Name, ...])}
_PATHS = ("environments.pythons", "worker.readable_paths", "worker.writable_paths")
HIDDEN = "(hidden)"
_SECRETS = ("s3.secret_access_key", "s3.session_token")
_SECRET = re.compile(r"password|secret|\.pem\b|jaas|oauthbearer\.config|token", re.IGNORECASE)
"""Options of librdkafka that hold what nobody else may know."""
_MLFLOW = re.compile(r"(off|auto|embedded|https?://[^/?#\s]+[^?#\s]*)\Z")
_PASSWORD = re.compile(r"(//[^:@/?]*:).*(?=@)|(password=)[^&]*")
"""Where an address of a store holds its password."""
_BUCKET = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,254}(/[^?#\s]*)?\Z")
_LOGIN = re.compile(r"(://)([^/\s@:]*:)?[^/\s@]+@")
"""Where an address of an index holds its password, or a token."""
_WEB = re.compile(r"https?://[^/]")
_UNITS = {"": 1, "b": 1, "kib": 1024, "mib": MIB, "gib": 1024 * MIB, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_SIZE = re.compile(r"\s*(\d+)\s*([a-zA-Z]*)\s*\Z")


def load(
    data_dir: Path | None, flags: Mapping[str, object], *, environ: Mapping[str, str] | None = None, follow_node: bool = True
) -> Settings:
    """Read all sources and return the settings in force.

    Args:
        data_dir: the flag `--data-dir`, or None where it was not given.
        flags: values by `section.name`; None means not given.
        environ: the environment; the process's own where left out.
        follow_node: connect where the node of the data directory is connected, if nothing else is said.

    Raises:
        Invalid: bad_config, with every fault of every source.
    """
    variables = os.environ if environ is None else environ
    folder, folder_origin = _data_dir(data_dir, variables)
    faults: list[str] = []
    values: dict[str, object] = {}
    origins = {"data_dir": folder_origin} | dict.fromkeys(_FIELDS, "default")
    given = [
        *(_from_node(folder / CONNECTIONS) if follow_node else ()),
        *_from_file(folder / FILE_NAME, faults),
        *_from_environment(variables, faults),
        *_from_flags(flags),
    ]
    for name, value, origin, spoken in given:
        try:
            values[name] = _convert(name, value, spoken=spoken)
            origins[name] = origin
        except ValueError as error:
            faults.append(f"{name} = {HIDDEN if _SECRET.search(name) else repr(value)} ({origin}): {error}")
    settings = _assemble(folder, values, origins)
    faults += _contradictions(settings)
    if faults:
        listed = faults[0] if len(faults) == 1 else f"{len(faults)} faults\n" + "\n".join(f"  - {fault}" for fault in faults)
        raise Invalid("bad_config", f"the settings cannot be used: {listed}")
    return settings


def names() -> tuple[str, ...]:
    """Every setting as `section.name`, in the order of the tree."""
    return tuple(_FIELDS)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return SHORT_NAMES.get(name, ENV_PREFIX + name.replace(".", "_").upper())


def value_of(settings: Settings, name: str) -> object:
    """The value of a setting by its name."""
    section, field = name.split(".")
    return getattr(getattr(settings, section), field)


def shown(settings: Settings, name: str) -> object:
    """The value of a setting by its name, for people to see: passwords and keys are left out."""
    value = value_of(settings, name)
    if name == "kafka.options" and isinstance(value, dict):
        return {option: HIDDEN if _SECRET.search(option) else said for option, said in value.items()}
    if name in _SECRETS and value:
        return HIDDEN
    if name == "environments.index_password":
        return HIDDEN if value else ""
    if name in ("shared.store", "mlflow.uri"):
        return _PASSWORD.sub(lambda found: (found[1] or found[2]) + HIDDEN, str(value))
    if isinstance(value, tuple):
        return tuple(_without_login(each) for each in value)
    return _without_login(value) if isinstance(value, str) else value


def _without_login(address: str) -> str:
    """An address less its password, or less a token that stands alone before the @."""
    return _LOGIN.sub(lambda found: f"{found[1]}{found[2] or ''}{HIDDEN}@", address)


def data_dir(flag: Path | None, *, environ: Mapping[str, str] | None = None) -> Path:
    """The data directory that is meant, whether or not its settings can be used."""
    return _data_dir(flag, os.environ if environ is None else environ)[0]


# --- the sources: each yields (name, value, origin, spoken), where `spoken` values are text to be read as their type -------

Given = tuple[str, object, str, bool]


def _data_dir(flag: Path | None, variables: Mapping[str, str]) -> tuple[Path, str]:
    if flag is not None:
        return flag.expanduser().absolute(), "flag --data-dir"
    named = variables.get(DATA_DIR_VARIABLE, "")
    if named:
        return Path(named).expanduser().absolute(), f"environment {DATA_DIR_VARIABLE}"
    return Path("~/.millstream").expanduser().absolute(), "default"


def connections(settings: Settings) -> dict[str, object]:
    """What other commands must know to reach what a node with these settings reaches, by `section.name`."""
    sections = ("kafka", "shared", "s3") if settings.shared.artifacts else ("kafka", "shared")
    default = Settings(data_dir=settings.data_dir)
    values = {name: value_of(settings, name) for name in _FIELDS if name.split(".")[0] in sections}
    return {name: value for name, value in values.items() if value != value_of(default, name)}


def _from_node(path: Path) -> Iterator[Given]:
    try:
        said = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError):
        return  # no node has worked here yet, or it was cut off at its first start
    for name, value in said.items():
        if name in _FIELDS:
            yield name, value, f"the node's {path.name}", False


def _from_file(path: Path, faults: list[str]) -> Iterator[Given]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{path} cannot be read: {error}")
        return
    import tomllib  # only where there is a file: commands start faster without it

    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{path} is not TOML: {error}")
        return
    for section, fields in tree.items():
        if section not in SECTIONS:
            hint = " (give it as --data-dir or MILLSTREAM_DATA_DIR)" if section == "data_dir" else _near(section, SECTIONS)
            faults.append(f"{path}: no section or setting is called {section}{hint}")
        elif not isinstance(fields, dict):
            faults.append(f"{path}: [{section}] is a table, this is {fields!r}")
        else:
            for field, value in fields.items():
                name = f"{section}.{field}"
                if name in _FIELDS:
                    yield name, value, f"file {path}", False
                else:
                    faults.append(f"{path}: no setting is called {name}{_near(name, _FIELDS)}")


def _from_environment(variables: Mapping[str, str], faults: list[str]) -> Iterator[Given]:
    known = {variable(name): name for name in _FIELDS}
    for key in sorted(variables):
        if key in known:
            yield known[key], variables[key], f"environment {key}", True
        elif _is_meant_for_us(key, known):
            faults.append(f"environment {key}: there is no such setting{_near(key, known | {DATA_DIR_VARIABLE: ''}, cutoff=0.85)}")


def _is_meant_for_us(key: str, known: Mapping[str, str]) -> bool:
    """A misspelled setting; other programs may well have variables of their own that begin with our prefix."""
    if not key.startswith(ENV_PREFIX) or key == DATA_DIR_VARIABLE:
        return False
    from difflib import get_close_matches  # only for names we do not know: commands start faster without it

    in_section = any(key.startswith(f"{ENV_PREFIX}{section.upper()}_") for section in SECTIONS)
    return in_section or bool(get_close_matches(key, [*known, DATA_DIR_VARIABLE], n=1, cutoff=0.85))


def _from_flags(flags: Mapping[str, object]) -> Iterator[Given]:
    for name, value in flags.items():
        if isinstance(value, Said):
            yield name, str(value), f"flag --set {name}", True
        elif value is not None:
            yield name, value, "flag --" + name.split(".")[-1].replace("_", "-"), True


def _near(name: str, candidates: Mapping[str, object], *, cutoff: float = 0.6) -> str:
    from difflib import get_close_matches

    found = get_close_matches(name, list(candidates), n=3, cutoff=cutoff)
    return f"; did you mean {' or '.join(found)}?" if found else ""


# --- values ---------------------------------------------------------------------------------------------------------------


def _convert(name: str, value: object, *, spoken: bool) -> object:
    """Read one value as its setting's type.

    Raises:
        ValueError: saying what was expected.
    """
    if name in _LISTS and isinstance(value, str):
        value = _words(value, paths=name in _PATHS)
    if name.endswith("_bytes") and isinstance(value, str):
        value = _size_bytes(value)
    if name == "kafka.options" and isinstance(value, str):
        value = _options(value)
    try:
        return msgspec.convert(value, _FIELDS[name], strict=not spoken)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)[:1].lower() + str(error)[1:]) from None


def _options(text: str) -> object:
    """JSON, or `name=value` words."""
    if text.lstrip().startswith("{"):
        return msgspec.json.decode(text)
    return dict(word.partition("=")[::2] for word in shlex.split(text))


def _words(text: str, *, paths: bool) -> object:
    if text.lstrip().startswith("["):
        return msgspec.json.decode(text)
    return [path for path in text.split(os.pathsep) if path] if paths else shlex.split(text)


def _size_bytes(text: str) -> int:
    found = _SIZE.match(text)
    if found is None or found[2].lower() not in _UNITS:
        raise ValueError("expected a number of bytes, or one with a unit such as 64MiB")
    return int(found[1]) * _UNITS[found[2].lower()]


def _assemble(data_dir: Path, values: Mapping[str, object], origins: dict[str, str]) -> Settings:
    def fields(section: str) -> dict[str, object]:
        prefix = f"{section}."
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    return Settings(
        data_dir=data_dir,
        node=msgspec.structs.replace(NodeSettings(), **fields("node")),
        log=msgspec.structs.replace(LogSettings(), **fields("log")),
        kafka=msgspec.structs.replace(KafkaSettings(), **fields("kafka")),
        shared=msgspec.structs.replace(SharedSettings(), **fields("shared")),
        s3=msgspec.structs.replace(S3Settings(), **fields("s3")),
        mlflow=msgspec.structs.replace(MlflowSettings(), **fields("mlflow")),
        logbook=msgspec.structs.replace(LogbookSettings(), **fields("logbook")),
        environments=msgspec.structs.replace(EnvironmentsSettings(), **fields("environments")),
        worker=msgspec.structs.replace(WorkerSettings(), **fields("worker")),
        origins=origins,
    )


def _contradictions(settings: Settings) -> Iterator[str]:
    """Settings that are fine alone and cannot be met together, or have a form that their type does not tell."""
    node, log = settings.node, settings.log
    yield from _no_addresses(settings)
    artifacts = settings.shared.artifacts
    if "://" in artifacts and not _BUCKET.match(artifacts):
        yield f"shared.artifacts = {artifacts!r} ({settings.origins['shared.artifacts']}): expected a folder, or s3://BUCKET/PREFIX"
    if settings.s3.endpoint and not settings.s3.endpoint.startswith(("http://", "https://")):
        yield f"s3.endpoint = {settings.s3.endpoint!r} ({settings.origins['s3.endpoint']}): expected https://HOST:PORT, or http://"
    if not _MLFLOW.match(settings.mlflow.uri):
        yield "mlflow.uri names no MLflow that can be mirrored to: expected off, auto, embedded or http[s]://HOST[:PORT]"
    if node.max_batch_size > node.max_queued_requests:
        yield (
            f"node.max_batch_size = {node.max_batch_size} is more than node.max_queued_requests = {node.max_queued_requests}: "
            "a full batch could never be gathered"
        )
    if log.max_record_bytes > node.max_queued_bytes:
        yield (
            f"log.max_record_bytes = {log.max_record_bytes} is more than node.max_queued_bytes = {node.max_queued_bytes}: "
            "the largest request would not fit into the node"
        )
    yield from _shown_to_workers(settings)


def _no_addresses(settings: Settings) -> Iterator[str]:
    """Indexes that are neither folders nor addresses; a login in one is not shown."""
    expected = "expected an address that begins with https:// or http://"
    index, upload = settings.shared.index, settings.shared.index_upload
    if "://" in index and not _WEB.match(index):
        yield f"shared.index = {_without_login(index)!r}: {expected}, or a folder"
    if upload and not _WEB.match(upload):
        yield f"shared.index_upload = {_without_login(upload)!r}: {expected}"
    for address in settings.environments.indexes:
        if not _WEB.match(address):
            folder = "a folder goes into environments.index_arguments: --find-links FOLDER"
            yield f"environments.indexes has {_without_login(address)!r}: {expected}; {folder}"


def _is_path(said: str) -> bool:
    return bool(said) and "://" not in said


def _home_of(said: str) -> Path:
    """A path with ~ and ~USER spelled out; as it stands where there is no such user."""
    return Path(os.path.expanduser(said))


def _shown_to_workers(settings: Settings) -> Iterator[str]:
    """Paths given to workers that hold what no worker may see."""
    shared, data_dir = settings.shared, settings.data_dir
    secret = [
        data_dir,
        *(_home_of(said).absolute() for said in (shared.artifacts, shared.index, shared.signing_key) if _is_path(said)),
    ]
    for name in ("readable_paths", "writable_paths"):
        for said in getattr(settings.worker, name):
            path = _home_of(said)
            if not path.is_absolute():
                yield f"worker.{name} names {said}: expected a path from the root"
                continue
            for place in secret:
                if place.resolve().is_relative_to(path.resolve()) or path.resolve().is_relative_to(place.resolve()):
                    yield f"worker.{name} names {said}, which would show workers what is in {place}"
