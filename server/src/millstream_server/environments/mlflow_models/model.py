"""`read_model`: what a folder with an MLmodel file says of itself, checked, before anything of it is run.

Source: MLflow's model format (mlflow.org, "MLflow Model"); `mlflow/models/model.py` and `mlflow/pyfunc/__init__.py` of 2.22 and 3.17.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from millstream_server.core.errors import Invalid
from millstream_server.environments.mlflow_models.reading import files_of, read_yaml
from millstream_server.environments.mlflow_models.requirements import Wanted, of_conda, of_python_env, read_requirements
from millstream_server.environments.mlflow_models.signature import Takes, read_signature

MLMODEL = "MLmodel"
CODE = "bad_mlflow_model"
_PATHS = frozenset({"data", "model_path", "model_data", "code", "python_model", "pickled_model", "path"})
"""Names under which a flavor says where its files are, below the model's folder; `uri` and `model_code_path` say where they once were."""

_MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*\Z")


class MlflowModel(msgspec.Struct, frozen=True):
    """A model's folder, understood.

    Attributes:
        files: relative paths, sorted; what the model is made of.
        flavors: names, such as python_function and sklearn.
        loader: the module that loads it, such as mlflow.sklearn.
        modules: the folder of the modules that the model brings along, and the hash of what is in it; empty where it brings none.
        wanted: its requirements, MLflow among them; its Python minor, or empty.
        takes: what its signature says, or that it has none.
        origin: what MLflow recorded of where it comes from, for people: run_id, model_uuid, mlflow_version, utc_time_created.
    """

    folder: Path
    files: tuple[str, ...]
    flavors: tuple[str, ...]
    loader: str
    modules: str
    modules_sha256: str
    wanted: Wanted
    takes: Takes
    origin: dict[str, str]


def read_model(folder: Path, *, requirements: Path | None = None, python: str = "") -> MlflowModel:
    """Read and check the folder of a model that was logged with MLflow, in any version from 1 on.

    Args:
        requirements: a file in the place of what the model says.
        python: a minor such as 3.11, in the place of the one that the model says.

    Raises:
        Invalid: bad_mlflow_model, bad_requirements.
    """
    folder = folder.absolute()
    if not (folder / MLMODEL).is_file():
        raise _bad(folder, f"{folder} has no file {MLMODEL}", "name the folder of a logged model: what mlflow artifacts download leaves")
    files = files_of(folder, CODE)
    said = read_yaml(folder, MLMODEL, CODE)
    flavors = said.get("flavors")
    function = flavors.get("python_function") if isinstance(flavors, Mapping) else None
    if not isinstance(flavors, Mapping) or not isinstance(function, Mapping):
        names = ", ".join(map(str, flavors)) if isinstance(flavors, Mapping) and flavors else "none"
        raise _bad(
            folder, f"it has no flavor python_function, which is what is served; it has {names}", "log it as mlflow.pyfunc can load it"
        )
    loader = function.get("loader_module")
    if not isinstance(loader, str) or not _MODULE.match(loader):
        raise _bad(folder, f"the loader_module of python_function is {loader!r:.100}; expected a module, such as mlflow.sklearn")
    _check_paths(folder, flavors)
    wanted = read_requirements(requirements) if requirements is not None else _wanted(folder, function, files)
    origin = {name: str(said[name])[:200] for name in ("run_id", "model_uuid", "mlflow_version", "utc_time_created") if said.get(name)}
    modules = str(function.get("code") or "").strip("/")
    recorded = wanted.python or _minor(function.get("python_version"))
    return MlflowModel(
        folder,
        files,
        tuple(map(str, flavors)),
        loader,
        modules,
        _modules_sha256(folder, modules, files),
        msgspec.structs.replace(_with_mlflow(wanted, origin), python=python or recorded),
        read_signature(said.get("signature"), bool(said.get("is_signature_from_type_hint")), folder / MLMODEL),
        origin,
    )


def _wanted(folder: Path, function: Mapping[str, Any], files: tuple[str, ...]) -> Wanted:
    """The model's own requirements: of its requirements.txt, which MLflow writes since 1.20, else of what its env names."""
    env = function.get("env")
    named = env if isinstance(env, Mapping) else {"conda": env}
    virtual, conda = str(named.get("virtualenv") or "python_env.yaml"), str(named.get("conda") or "conda.yaml")
    found: Wanted | None = None
    if virtual in files:
        found = of_python_env(folder, virtual, CODE)
    elif "requirements.txt" in files:
        found = read_requirements(folder / "requirements.txt")
    if found is None and conda in files:
        found = of_conda(folder, conda, CODE)
    if found is None:
        raise Invalid(
            "bad_requirements",
            f"{folder} says nowhere what it needs: no python_env.yaml, requirements.txt or conda.yaml",
            where=str(folder),
            mend="write what it needs as NAME==VERSION lines, and import it with: --requirements FILE",
        )
    return found


def _with_mlflow(wanted: Wanted, origin: Mapping[str, str]) -> Wanted:
    """MLflow loads the model, so it is among what is installed: in the version that logged it where nobody says another."""
    if wanted.names() & {"mlflow", "mlflow-skinny"}:
        return wanted
    version = origin.get("mlflow_version", "")
    known = re.match(r"\d+(\.\d+)*\Z", version)
    return msgspec.structs.replace(wanted, lines=(*wanted.lines, f"mlflow=={version}" if known else "mlflow"))


def _check_paths(folder: Path, flavors: Mapping[str, Any]) -> None:
    for name, value in _paths(flavors):
        parts = value.split("/")
        if value.startswith("/") or ".." in parts or "\\" in value or "\0" in value:
            raise _bad(folder, f"its {name} is {value[:200]!r}, which leads out of the model's folder")


def _paths(value: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and depth < 8:
        for key, inner in value.items():
            yield from _paths(inner, str(key), depth + 1)
    elif isinstance(value, str) and name in _PATHS:
        yield name, value


def _modules_sha256(folder: Path, modules: str, files: tuple[str, ...]) -> str:
    """Hash the modules that a model brings along.

    They are imported under their own names, and a process imports a name once: models whose modules differ need releases of their own.
    """
    if not modules:
        return ""
    digest = hashlib.sha256()
    for path in files:
        if path.startswith(f"{modules}/"):
            data = (folder / path).read_bytes()
            digest.update(f"{path}\0{len(data)}\0".encode())
            digest.update(data)
    return digest.hexdigest()


def _minor(version: object) -> str:
    found = re.match(r"3\.\d+", str(version or ""))
    return found[0] if found else ""


def _bad(folder: Path, message: str, mend: str = "") -> Invalid:
    return Invalid(CODE, message, where=str(folder / MLMODEL), mend=mend)
