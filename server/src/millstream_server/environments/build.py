"""`build_package`: from an author's folder to the wheel of a release.

Called by `millstream build`, in its main thread, and by `millstream dev`, in another. The wheel is what the author's own build backend
makes, with two files added to its dist-info: the lock and the manifest. What the manifest says of pipelines is read from the imported
code, in an environment made from that very lock, so a package that cannot be imported is never published.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import tomllib
from millstream.wire import WIRE
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from millstream_server.core.errors import Failed, Invalid, Unavailable
from millstream_server.core.names import check_name
from millstream_server.core.release import Manifest, PipelineSpec
from millstream_server.environments import interpreters, lock, probe, shadows, venv, wheels
from millstream_server.environments.interpreters import Interpreter
from millstream_server.environments.phases import OnPhase, Phases
from millstream_server.environments.releases import MANIFEST_FORMAT, build_id_of
from millstream_server.environments.uv import run_uv, told
from millstream_server.shipped import SHIPPED_WHEELS, shipped_sdk

_SETTINGS = ("modules", "prefer-python")
_UNUSED_DAYS = 14


class Built(msgspec.Struct, frozen=True):
    """The finished wheel, its manifest and SHA-256, the seconds of each phase, and the text of its lock."""

    wheel: Path
    manifest: Manifest
    sha256: str
    seconds: dict[str, float]
    lock: str


class Package(msgspec.Struct, frozen=True):
    """What `pyproject.toml` says.

    `version` is empty where the backend finds it; `modules` where the wheel's top-level ones are meant. `prefer_python` is a version
    specifier: an interpreter that satisfies it too is taken before others that satisfy `requires_python`.
    """

    name: str
    version: str
    requires_python: str
    modules: tuple[str, ...]
    prefer_python: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}=={self.version}" if self.version else self.name


class _Pipelines(msgspec.Struct):
    pipelines: tuple[PipelineSpec, ...]


def build_package(
    folder: Path,
    out_dir: Path,
    *,
    index_arguments: Sequence[str] = (),
    on_phase: OnPhase | None = None,
    version_of: Callable[[str], str] | None = None,
    lock_text: str = "",
    cancel: threading.Event | None = None,
) -> Built:
    """Build the release of a package into `out_dir`. An interrupt (Ctrl-C) ends the children and leaves no unfinished file.

    Args:
        folder: where the author's `pyproject.toml` is.
        out_dir: made when it is missing.
        index_arguments: of the release index, where a package may depend on what is published there.
        on_phase: told each phase as it begins: resolve, wheel, download, install, probe, pack.
        version_of: from the package's version to the one that this release gets; its own where left out.
        lock_text: of an earlier build with the same dependencies; then nothing is resolved.
        cancel: set it to give up; children are ended.

    Raises:
        Cancelled: `cancel` was set.
        Invalid: bad_package, bad_name, lock_unresolvable, no_wheel, hash_mismatch, import_failed, bad_pipeline.
        Failed: install_failed.
        Unavailable: no_interpreter, no_uv, no_space, install_failed (the index is out of reach).
    """
    phases = Phases(on_phase)
    package = read_package(folder)
    interpreter = _interpreter(package)
    folder, out_dir = folder.absolute(), out_dir.absolute()
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="millstream-build-") as scratch:
            phases.begin("resolve", package.label)
            lock_text = lock_text or lock.resolve(folder, interpreter, index_arguments, package.label, cancel=cancel)
            shadows.refuse_own_name(package.name, lock_text, str(folder / "pyproject.toml"))
            phases.begin("wheel", package.label)
            plain = _build_wheel(folder, Path(scratch), interpreter, package, cancel)
            modules = wheels.top_level_modules(plain)
            shadows.refuse_modules(package.name, modules, str(folder))
            if version_of is not None:
                version = version_of(str(_version(wheels.read_info(plain).version, plain)))
                package = msgspec.structs.replace(package, version=version)
                plain = wheels.with_version(plain, version, Path(scratch))
            environment = _build_environment(lock_text, interpreter, index_arguments, package, phases, cancel)
            shadows.refuse_overwriting(package.name, modules, venv.site_packages(environment), str(folder))
            phases.begin("probe", package.label)
            manifest = _manifest(plain, lock_text, interpreter, package, _probe(environment, plain, Path(scratch), package, cancel))
            phases.begin("pack", package.label)
            wheel = out_dir / plain.name
            wheels.add_files(
                plain, wheel, {wheels.LOCK: lock_text.encode(), wheels.MANIFEST: msgspec.json.format(msgspec.json.encode(manifest))}
            )
    except OSError as error:
        raise venv.told_by_system(error, f"{package.label} cannot be built", out_dir) from error
    finally:
        phases.end()
    return Built(wheel, manifest, wheels.sha256_of(wheel), phases.seconds, lock_text)


def read_package(folder: Path) -> Package:
    """Read and check a package's `pyproject.toml`.

    Raises:
        Invalid: bad_package, saying what is missing; bad_name.
    """
    path = folder / "pyproject.toml"
    if not path.is_file():
        raise Invalid("bad_package", f"{folder} has no pyproject.toml, so it is no package", where=str(folder))
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(
            "bad_package", f"pyproject.toml is not TOML: {error}", where=str(path), mend="correct the line that the message names"
        ) from None
    project = data.get("project")
    if not isinstance(project, dict) or not isinstance(project.get("name"), str):
        raise _lacks(path, "[project] with a name")
    if "build-system" not in data:
        raise _lacks(path, "[build-system], which says what builds the wheel")
    dynamic = project.get("dynamic", [])
    if "version" not in project and "version" not in dynamic:
        raise _lacks(path, "a version in [project]")
    settings = data.get("tool", {}).get("millstream", {})
    unknown = sorted(set(settings) - set(_SETTINGS))
    if unknown:
        message = f"[tool.millstream] has {', '.join(unknown)}; known are {', '.join(_SETTINGS)}"
        raise Invalid("bad_package", message, where=str(path), mend="remove or correct it")
    name = check_name("package", canonicalize_name(project["name"]))
    shadows.refuse_name(name, str(path))
    return Package(
        name,
        _version(str(project["version"]), path) if "version" in project else "",
        str(project.get("requires-python", "")),
        _modules(settings.get("modules", []), path),
        str(settings.get("prefer-python", "")),
    )


def _interpreter(package: Package) -> Interpreter:
    if package.prefer_python:
        both = ",".join(each for each in (package.requires_python, package.prefer_python) if each)
        try:
            return interpreters.find(both, wanted_by=package.label)
        except Unavailable:
            pass  # preferred, not required: any other that fits will do
    return interpreters.find(package.requires_python, wanted_by=package.label)


def _lacks(path: Path, what: str) -> Invalid:
    return Invalid("bad_package", f"pyproject.toml lacks {what}", where=str(path))


def _version(text: str, path: Path) -> str:
    try:
        return str(Version(text))
    except InvalidVersion:
        raise Invalid(
            "bad_package",
            f"version {text!r} is no version such as 1.0.0 (PEP 440)",
            where=str(path),
            mend='write version = "1.0.0" in [project]',
        ) from None


def _modules(modules: object, path: Path) -> tuple[str, ...]:
    if not isinstance(modules, list) or not all(isinstance(each, str) and each for each in modules):
        message = "modules in [tool.millstream] is a list of module names"
        raise Invalid("bad_package", message, where=str(path), mend='write modules = ["package.module"]')
    return tuple(modules)


def _build_wheel(folder: Path, scratch: Path, interpreter: Interpreter, package: Package, cancel: threading.Event | None) -> Path:
    out = scratch / "wheel"
    command: list[str | Path] = ["build", "--wheel", "--out-dir", out, "--python", interpreter.path, "--no-create-gitignore", folder]
    done = run_uv([*command, "--offline"], cwd=folder, cancel=cancel)
    if done.code != 0 and "network" in done.stderr:  # the backend is not cached yet
        done = run_uv(command, cwd=folder, cancel=cancel)
    built = sorted(out.glob("*.whl"))
    if done.code != 0 or not built:
        failure = told(done, f"the wheel of {package.label} cannot be built", otherwise="bad_package", where=str(folder))
        raise (
            failure
            if not isinstance(failure, Failed)
            else Invalid("bad_package", failure.message, where=str(folder), mend="mend what the build backend says")
        )
    return built[0]


def _build_environment(
    lock_text: str,
    interpreter: Interpreter,
    index_arguments: Sequence[str],
    package: Package,
    phases: Phases,
    cancel: threading.Event | None,
) -> Path:
    """An environment of the lock without the package: kept by lock and interpreter, so that a second build needs none."""
    root = venv.build_cache()
    prefix = root / hashlib.sha256(f"{lock_text}\0{interpreter.path}\0{interpreter.version}".encode()).hexdigest()[:24]
    if (prefix / "requirements.txt").is_file() and (prefix / "bin" / "python").exists():
        os.utime(prefix)
        return prefix
    root.mkdir(parents=True, exist_ok=True)
    _forget_unused(root)
    temporary = root / f".tmp-{uuid.uuid4().hex}"
    try:
        venv.create(temporary, interpreter, cancel=cancel)
        requirements = temporary / "requirements.txt"
        requirements.write_text(lock_text, encoding="utf-8")
        arguments = ["--find-links", str(SHIPPED_WHEELS), *index_arguments]
        venv.fill(temporary, requirements, arguments, package.label, phases, cancel=cancel)
        venv.remove(prefix)  # one whose interpreter is gone
        try:
            os.rename(temporary, prefix)
        except FileExistsError:
            pass  # another build with the same lock was quicker
    finally:
        venv.remove(temporary)
    return prefix


def _forget_unused(root: Path) -> None:
    """Remove environments that no build used for two weeks, and what interrupted builds left a day ago."""
    now = time.time()
    for path in root.iterdir():
        days = 1 if path.name.startswith(".tmp-") else _UNUSED_DAYS
        if now - path.stat().st_mtime > days * 86400:
            venv.remove(path)


def _probe(
    environment: Path, wheel: Path, scratch: Path, package: Package, cancel: threading.Event | None
) -> tuple[tuple[str, ...], tuple[PipelineSpec, ...]]:
    """Import the wheel's modules in the environment and return their names and the pipelines that they declare."""
    modules = package.modules or wheels.top_level_modules(wheel)
    if not modules:
        raise Invalid(
            "bad_package", f"{wheel.name} holds no importable module", where=str(wheel), mend="see that the build backend packs src/"
        )
    unpacked = scratch / "unpacked"
    python = environment / "bin" / "python"
    done = run_uv(["pip", "install", "--quiet", "--no-deps", "--offline", "--python", python, "--target", unpacked, wheel], cancel=cancel)
    if done.code != 0:
        raise told(done, f"{wheel.name} cannot be unpacked", otherwise="bad_package", where=str(wheel))
    line = probe.ask(
        python,
        ["-m", "millstream.manifest", "--path", unpacked, "--modules", ",".join(modules)],
        package.label,
        root=unpacked,
        cancel=cancel,
    )
    return modules, msgspec.json.decode(line, type=_Pipelines).pipelines


def _manifest(
    wheel: Path, lock_text: str, interpreter: Interpreter, package: Package, probed: tuple[tuple[str, ...], tuple[PipelineSpec, ...]]
) -> Manifest:
    modules, pipelines = probed
    info = wheels.read_info(wheel)
    version = _version(info.version, wheel)
    if info.name != package.name or (package.version and version != package.version):
        raise Invalid("bad_package", f"pyproject.toml says {package.label}, but its backend built {info.name}=={version}", where=str(wheel))
    sdk = shipped_sdk()
    assert sdk is not None  # the lock was resolved with it
    code_sha256 = wheels.code_sha256(wheel)
    lock_sha256 = hashlib.sha256(lock_text.encode()).hexdigest()
    return Manifest(
        format=MANIFEST_FORMAT,
        package=package.name,
        version=version,
        build_id=build_id_of(version, code_sha256, lock_sha256, interpreter.minor),
        python=interpreter.minor,
        requires_python=package.requires_python,
        sdk=wheels.read_info(sdk).version,
        wire=WIRE,
        modules=modules,
        code_sha256=code_sha256,
        lock_sha256=lock_sha256,
        pipelines=pipelines,
    )
