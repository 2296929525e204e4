"""From a model that was read to a package that is built like any other: its requirements are the package's, its signature the contract.

Called by `millstream models import`. The package's modules are those in `template/`, the same for every model; what differs is data
(`served.json`), so that nothing a model says of itself ever becomes code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import msgspec
from packaging.utils import canonicalize_name

from millstream_server.core.errors import Invalid
from millstream_server.core.folders import LAYOUT_FILE, LAYOUT_FORMAT, Layout
from millstream_server.core.names import check_name
from millstream_server.core.release import Manifest
from millstream_server.environments.mlflow_models.model import CODE, MlflowModel
from millstream_server.environments.mlflow_models.requirements import Wanted

TEMPLATE = Path(__file__).parent / "template"
_SUFFIX = ".in"
_MODULE = "millstream_mlflow_"
"""Before the digest of what a release of imported models is made of: two models with the same digest share it."""

_PRELOADED = {"sklearn": "sklearn.pipeline", "xgboost": "xgboost", "lightgbm": "lightgbm", "onnx": "onnxruntime", "catboost": "catboost"}
_MOST_TOLD = 2000


class Plan(msgspec.Struct, frozen=True):
    """A package that serves a model: its names, its module with the digest, and the text of `served.json`."""

    package: str
    pipeline: str
    module: str
    served: str
    wanted: Wanted
    flavors: tuple[str, ...]

    def fits(self, manifest: Manifest) -> bool:
        """Whether a release serves such models already."""
        return manifest.modules == (self.module,)


def plan_package(model: MlflowModel, name: str, pipeline: str) -> Plan:
    """Decide what the package of a model is.

    Args:
        name: of the model.
        pipeline: that answers with it; the package has its name, as indexes spell it.

    Raises:
        Invalid: bad_name.
    """
    package = str(canonicalize_name(check_name("pipeline", pipeline)))
    takes = model.takes
    preload = [module for flavor, module in _PRELOADED.items() if flavor in model.flavors and _has(model.wanted, flavor)]
    served = {
        "model": check_name("model", name),
        "pipeline": pipeline,
        "kind": takes.kind,
        "inputs": takes.inputs,
        "params": takes.params,
        "as_list": takes.as_list,
        "preload": [model.loader] * model.loader.startswith("mlflow.") + preload,
        "doc": _told(model),
    }
    text = json.dumps(served, indent=1, sort_keys=True)
    made_of = [text, *model.wanted.lines, "", *model.wanted.constraints, "", model.wanted.python, model.modules_sha256, _template_sha256()]
    digest = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:12]
    return Plan(package, pipeline, _MODULE + digest, text, model.wanted, model.flavors)


def is_of_imports(manifest: Manifest) -> bool:
    """Whether a release was made by an import, rather than written by somebody."""
    return all(module.startswith(_MODULE) for module in manifest.modules)


def write_package(plan: Plan, folder: Path, version: str) -> None:
    """Write the package's files into an empty folder."""
    source = folder / "src" / plan.module
    source.mkdir(parents=True)
    for name, target in (("imported", "__init__"), ("serving", "serving"), ("types_of", "types_of"), ("layout", "layout")):
        shutil.copyfile(TEMPLATE / f"{name}.py{_SUFFIX}", source / f"{target}.py")
    (source / "served.json").write_text(plan.served, encoding="utf-8")
    write_project(folder, plan.package, version, plan.module, plan.wanted)


def write_project(folder: Path, package: str, version: str, module: str, wanted: Wanted) -> None:
    """Write `pyproject.toml`, and constraints as the package's own lock."""
    python = f"=={wanted.python}.*" if wanted.python else ">=3.10"
    dependencies = ", ".join(json.dumps(line) for line in ("millstream-sdk", *wanted.lines))  # a JSON text is a TOML one
    text = f"""[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = {json.dumps(package)}
version = {json.dumps(version)}
description = "Made by millstream from what was made with MLflow."
requires-python = {json.dumps(python)}
dependencies = [{dependencies}]

[tool.millstream]
modules = [{json.dumps(module)}]

[tool.hatch.build.targets.wheel]
packages = [{json.dumps(f"src/{module}")}]
"""
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    if wanted.constraints:
        (folder / "requirements.lock").write_text("\n".join(wanted.constraints) + "\n", encoding="utf-8")


def write_files(model: MlflowModel, folder: Path) -> None:
    """Copy a model's files into a folder as flat files, with the layout that they had.

    Raises:
        Invalid: bad_mlflow_model, a file was exchanged meanwhile.
    """
    files: dict[str, str] = {}
    for path in model.files:
        flat = f"{len(files):05d}-" + re.sub(r"[^A-Za-z0-9._-]", "_", path.rpartition("/")[2])[-80:]
        try:
            with (
                open(os.open(model.folder / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as source,
                (folder / flat).open("xb") as to,
            ):
                shutil.copyfileobj(source, to, 1 << 20)
        except FileNotFoundError as error:
            raise Invalid(CODE, f"{path} went away while it was copied", where=str(model.folder)) from error
        files[path] = flat
    layout = Layout(LAYOUT_FORMAT, model.modules, files)
    (folder / LAYOUT_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(layout), indent=1))


def _told(model: MlflowModel) -> str:
    """The pipeline's description, for people."""
    takes = model.takes
    flavors = ", ".join(flavor for flavor in model.flavors if flavor != "python_function") or "code of its own"
    lines = [f"Answers with an imported MLflow model ({flavors}), as mlflow.pyfunc does."]
    if takes.kind == "anything":
        lines.append("The model has no signature: rows are taken as they come, and only the model says what is wrong with them.")
    if takes.outputs:
        lines.append(f"By its signature it answers {json.dumps(takes.outputs)[:_MOST_TOLD]}")
    if takes.params:
        lines.append(
            f"Parameters with their defaults: {json.dumps({each['name']: each.get('default') for each in takes.params})[:_MOST_TOLD]}"
        )
    return "\n".join(lines)


def _has(wanted: Wanted, flavor: str) -> bool:
    name = {"sklearn": "scikit-learn", "onnx": "onnxruntime"}.get(flavor, flavor)
    return name in wanted.names()


def _template_sha256() -> str:
    digest = hashlib.sha256()
    for path in sorted(TEMPLATE.glob(f"*{_SUFFIX}")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
