"""From a folder with an MLproject file to a package: its entry points are trainings, what they log becomes the model.

Called by `millstream build`. The project's files go into the wheel as they are; the package's own module runs an entry point's command
in the run's worker environment (`template/trained.py.in`). Source: MLflow's "MLproject file"; `mlflow/projects/_project_spec.py` of 3.17.
"""

from __future__ import annotations

import json
import keyword
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from millstream_server.core.errors import Invalid
from millstream_server.core.names import is_name
from millstream_server.environments.mlflow_models.package import TEMPLATE, write_project
from millstream_server.environments.mlflow_models.reading import files_of, read_yaml
from millstream_server.environments.mlflow_models.requirements import Wanted, of_conda, of_python_env

MLPROJECT = "MLproject"
CODE = "bad_mlproject"
_TYPES = ("string", "float", "path", "uri")
_HOLE = re.compile(r"\{([^{}]*)\}")
_NOT_SHIPPED = ("dist/", ".venv/", "venv/", "mlartifacts/")


class EntryParameter(msgspec.Struct, frozen=True, omit_defaults=True):
    """One parameter of an entry point; `type` as MLproject spells it."""

    name: str
    type: str
    default: str | float | None = None


class EntryPoint(msgspec.Struct, frozen=True):
    """One entry point: the training's name, its parameters, and its command as words in which parameters are filled in."""

    pipeline: str
    name: str
    parameters: tuple[EntryParameter, ...]
    words: tuple[str, ...]


class Project(msgspec.Struct, frozen=True):
    """An MLproject file, understood; `model` is what its trainings make."""

    package: str
    model: str
    version: str
    entries: tuple[EntryPoint, ...]
    wanted: Wanted


def is_project(folder: Path) -> bool:
    """Whether a folder holds a project of MLflow, and no package of ours."""
    return (folder / MLPROJECT).is_file() and not (folder / "pyproject.toml").exists()


def read_project(folder: Path) -> Project:
    """Read and check an MLproject file.

    Raises:
        Invalid: bad_mlproject, bad_requirements.
    """
    where = folder / MLPROJECT
    said = read_yaml(folder, MLPROJECT, CODE)
    name = str(said.get("name") or folder.absolute().name)
    model = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if not is_name(model) or not model[0].isalpha():
        raise _bad(where, f"its name is {name[:100]!r}; expected a letter, then letters, digits, - and _, 64 at most")
    try:
        version = str(Version(str(said.get("version", "0.1.0"))))
    except InvalidVersion:
        raise _bad(where, f"its version is {said.get('version')!r:.100}; expected one such as 1.0.0") from None
    entries = said.get("entry_points")
    if not isinstance(entries, Mapping) or not entries:
        raise _bad(where, "it has no entry_points", "add one: entry_points: {main: {command: python train.py}}")
    read = tuple(_entry(model, str(key), value, where) for key, value in entries.items())
    return Project(str(canonicalize_name(name)), model, version, read, _wanted(folder, said, where))


def write_package(project: Project, folder: Path, into: Path) -> None:
    """Write the package of a project into an empty folder.

    Raises:
        Invalid: bad_mlproject, the project holds a link or a device.
    """
    module = f"mlproject_{project.model}"
    source = into / "src" / module
    source.mkdir(parents=True)
    for name, target in (("trained", "__init__"), ("serving", "serving"), ("types_of", "types_of"), ("layout", "layout")):
        shutil.copyfile(TEMPLATE / f"{name}.py.in", source / f"{target}.py")
    for path in files_of(folder, CODE):
        if not path.startswith(_NOT_SHIPPED):
            target_path = source / "project" / path
            target_path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / path, target_path, follow_symlinks=False)
    told = {"model": project.model, "predict": f"{project.model}_predict", "entries": msgspec.to_builtins(project.entries)}
    (source / "project.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    write_project(into, project.package, project.version, module, project.wanted)


def _entry(model: str, name: str, said: object, where: Path) -> EntryPoint:
    if not isinstance(said, Mapping) or not isinstance(said.get("command"), str):
        raise _bad(where, f"the entry point {name[:100]} has no command")
    pipeline = f"{model}_train" if name == "main" else f"{model}_{re.sub(r'[^A-Za-z0-9_]', '_', name)}"
    if not is_name(pipeline) or pipeline == f"{model}_predict":
        raise _bad(where, f"the entry point {name[:100]!r} makes the pipeline {pipeline[:100]!r}, which is no name, or is taken by answers")
    listed = said.get("parameters") or {}
    if not isinstance(listed, Mapping):
        raise _bad(where, f"the parameters of {name} are {listed!r:.100}; expected names with types")
    parameters = tuple(_parameter(name, str(key), value, where) for key, value in listed.items())
    return EntryPoint(pipeline, name, parameters, _words(name, said["command"], {each.name for each in parameters}, where))


def _parameter(entry: str, name: str, said: object, where: Path) -> EntryParameter:
    if not name.isidentifier() or keyword.iskeyword(name) or name == "run":
        raise _bad(where, f"{entry} has a parameter {name[:100]!r}, which is no name in Python, or is run, which says whose training it is")
    kind, default = (said.get("type", "string"), said.get("default")) if isinstance(said, Mapping) else (said, None)
    if kind not in _TYPES:
        raise _bad(where, f"the parameter {name} of {entry} has the type {kind!r:.100}; known are {', '.join(_TYPES)}")
    if default is None:
        return EntryParameter(name, kind)
    if kind != "float":
        return EntryParameter(name, kind, str(default))
    try:
        return EntryParameter(name, kind, float(default))
    except (TypeError, ValueError):
        raise _bad(where, f"the default of {name} of {entry} is {default!r:.100}; expected a number") from None


def _words(entry: str, command: str, known: set[str], where: Path) -> tuple[str, ...]:
    """Part a command as a shell would, once and here: what is filled in later is never parted, so no value is ever more than one word."""
    try:
        words = shlex.split(command)
        operators = [word for word in shlex.shlex(command, posix=True, punctuation_chars=True) if set(word) <= set("();<>|&")]
    except ValueError as error:
        raise _bad(where, f"the command of {entry} cannot be parted into words: {error}") from None
    mend = "put what the shell did into a script, and call that: command: bash train.sh {alpha}"
    if not words:
        raise _bad(where, f"the command of {entry} is empty")
    if operators or "$" in command or "`" in command or "=" in words[0]:
        odd = operators[0] if operators else "$, ` or NAME=VALUE"
        raise _bad(where, f"the command of {entry} needs a shell ({odd}); commands are run without one, so that no parameter is run", mend)
    for hole in (hole for word in words for hole in _HOLE.findall(word)):
        if hole not in known:
            raise _bad(where, f"the command of {entry} asks for {{{hole[:100]}}}, which is no parameter of it")
    return tuple(words)


def _wanted(folder: Path, said: Mapping[str, object], where: Path) -> Wanted:
    if said.get("docker_env"):
        raise _bad(where, "it wants a docker_env; trainings run in virtual environments", "say what it needs in python_env.yaml")
    python_env, conda_env = said.get("python_env"), said.get("conda_env")
    named = str(python_env or conda_env or "")
    if not named:
        raise _bad(where, "it says nowhere what it needs", "add python_env: python_env.yaml, and that file")
    if named not in files_of(folder, CODE):
        raise _bad(where, f"it names {named[:200]!r}, which is no file of the project")
    found = of_python_env(folder, named, CODE) if python_env else of_conda(folder, named, CODE)
    if found.names() & {"mlflow", "mlflow-skinny"}:
        return found
    return msgspec.structs.replace(found, lines=(*found.lines, "mlflow"))


def _bad(where: Path, message: str, mend: str = "") -> Invalid:
    return Invalid(CODE, message, where=str(where), mend=mend)
