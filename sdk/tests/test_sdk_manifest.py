"""What `build` reads from a package's code, and how a worker finds and checks a manifest."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest
from millstream._manifest import ManifestError, installed_manifest

CODE = '''
    """A package."""
    import os
    from dataclasses import dataclass
    from enum import Enum
    from typing import Annotated, Literal, TypedDict

    import msgspec
    import millstream as ms

    print("printed while imported")
    os.write(1, b"written while imported\\n")

    class Kind(Enum):
        A = "a"

    @dataclass
    class Reading:
        """One value."""
        value: float
        kind: Kind = Kind.A

    class Verdict(msgspec.Struct):
        flag: bool
        why: str | None = None

    class Limits(TypedDict):
        low: float

    class Model:
        pass

    @ms.training(model="anomaly", timeout_s=60)
    def train(run: ms.Run, source: str, share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01, limits: Limits | None = None) -> Model:
        """Fit one tenant's model.

        More,
            indented.
        """
        with run.step("load"):
            pass
        with run.step("fit"), run.step("check"):
            with run.step("load"):
                pass
        with run.step(f"{source}"):
            pass
        return Model()

    @ms.inference(model="anomaly", rows_independent=True)
    def detect(model: Model, readings: list[Reading], mode: Literal["fast", "slow"] = "fast") -> list[Verdict]:
        return []

    @ms.inference(name="sum-up")
    def total(a: int, more: list[int] = [1, 2], anything: object = None, odd: int = object()):
        return a
'''


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", "-m", module, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the module `pipes`."""
    (tmp_path / "pipes.py").write_text(textwrap.dedent(CODE))
    return tmp_path


def _manifest(package: Path) -> Any:
    return msgspec.json.decode(_run("millstream.manifest", "--modules", "pipes", "--path", str(package)).stdout)


def test_the_manifest_describes_every_pipeline(package: Path) -> None:
    """One line of JSON on standard output, whatever the modules print: kinds, shapes, models, schemas, docs and step names."""
    done = _run("millstream.manifest", "--modules", "pipes", "--path", str(package))
    described = msgspec.json.decode(done.stdout)

    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "printed while imported" in done.stderr
    assert "written while imported" in done.stderr
    assert described["seconds"] > 0
    train, detect, total = described["pipelines"]
    assert (train["name"], train["kind"], train["model"], train["module"], train["function"]) == (
        "train",
        "training",
        "anomaly",
        "pipes",
        "train",
    )
    assert (train["timeout_s"], train["steps"], train["returns"]) == (60, ["load", "fit", "check"], {})
    assert train["doc"] == "Fit one tenant's model.\n\nMore,\n    indented."
    assert (detect["shape"], detect["rows_parameter"], detect["rows_independent"]) == ("list", "readings", True)
    assert (total["name"], total["function"], total["shape"], total["model"], total["timeout_s"]) == ("sum-up", "total", "row", "", None)


def test_schemas_say_what_the_type_hints_say(package: Path) -> None:
    """Parameters are an object without others, types lie under $defs, constraints and defaults are kept."""
    train, detect, total = _manifest(package)["pipelines"]

    assert train["parameters"] == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "source": {"type": "string"},
            "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 0.01},
            "limits": {"anyOf": [{"$ref": "#/$defs/Limits"}, {"type": "null"}], "default": None},
        },
        "required": ["source"],
        "additionalProperties": False,
        "$defs": {"Limits": {"title": "Limits", "type": "object", "properties": {"low": {"type": "number"}}, "required": ["low"]}},
    }
    assert detect["parameters"]["properties"]["readings"] == {"type": "array", "items": {"$ref": "#/$defs/Reading"}}
    assert detect["parameters"]["properties"]["mode"] == {"enum": ["fast", "slow"], "default": "fast"}
    assert detect["parameters"]["$defs"]["Reading"]["description"] == "One value."
    assert detect["returns"]["items"] == {"$ref": "#/$defs/Verdict"}
    assert set(detect["returns"]["$defs"]) == {"Verdict"}
    assert total["parameters"]["properties"]["more"]["default"] == [1, 2]
    assert total["parameters"]["properties"]["anything"] == {"description": "any JSON value", "default": None}
    assert total["parameters"]["required"] == ["a"]
    assert total["returns"] == {"$schema": "https://json-schema.org/draft/2020-12/schema"}


@pytest.mark.parametrize(
    ("code", "error_code", "sentence"),
    [
        ("import nowhere_at_all", "import_failed", "No module named 'nowhere_at_all'"),
        ("x = 1", "bad_pipeline", "no pipeline is declared in pipes"),
        ("import millstream as ms\n@ms.inference\ndef f(a) -> int: ...", "bad_pipeline", "parameter a has no type annotation"),
        (
            "import millstream as ms\n@ms.inference\ndef f() -> int: ...\n@ms.inference\ndef f() -> int: ...",
            "bad_pipeline",
            "two pipelines are named f",
        ),
    ],
)
def test_code_that_is_no_release_is_an_error(package: Path, code: str, error_code: str, sentence: str) -> None:
    """The line holds the error in place of pipelines, and the exit code is 1."""
    (package / "pipes.py").write_text(code)

    done = _run("millstream.manifest", "--modules", "pipes", "--path", str(package))
    error = msgspec.json.decode(done.stdout)["error"]

    assert done.returncode == 1
    assert error["code"] == error_code
    assert sentence in error["message"]


def test_pipelines_below_the_named_modules_belong_to_them_and_others_do_not(package: Path) -> None:
    """A package's submodules count once they are imported; what the package imports from elsewhere stays elsewhere."""
    (package / "mine").mkdir()
    (package / "mine" / "__init__.py").write_text("from mine import inner\nfrom shared import helper\n")
    (package / "mine" / "inner.py").write_text("import millstream as ms\n@ms.inference\ndef own() -> int: ...\n")
    (package / "shared.py").write_text("import millstream as ms\n@ms.inference\ndef helper() -> int: ...\n")

    done = _run("millstream.manifest", "--modules", "mine", "--path", str(package))

    assert [(p["module"], p["name"]) for p in msgspec.json.decode(done.stdout)["pipelines"]] == [("mine.inner", "own")]


# --- the probe --------------------------------------------------------------------------------------------------------


def _probe(package: Path, manifest: dict[str, Any]) -> tuple[int, Any]:
    (package / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    done = _run("millstream.worker", "--probe", "--manifest", str(package / "manifest.json"), "--path", str(package))
    assert done.stdout.count("\n") == 1
    return done.returncode, msgspec.json.decode(done.stdout)


def _made(package: Path) -> dict[str, Any]:
    return {
        "format": 1,
        "package": "pipes",
        "version": "1.0",
        "build_id": "b",
        "modules": ["pipes"],
        "pipelines": _manifest(package)["pipelines"],
    }


def test_the_probe_passes_where_code_and_manifest_agree(package: Path) -> None:
    """One line with ok and the seconds, exit code 0; a probe needs no socket."""
    code, answer = _probe(package, _made(package))

    assert code == 0
    assert answer["ok"] is True
    assert answer["seconds"] > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m["pipelines"].pop(), "pipeline sum-up is in the code but not in the manifest of pipes==1.0"),
        (lambda m: m["pipelines"].append({**m["pipelines"][0], "name": "gone"}), "pipeline gone is in the manifest but not in the code"),
        (lambda m: m["pipelines"][1].update(shape="row"), "pipeline detect: shape is 'list' in the code, 'row' in the manifest"),
        (lambda m: m["pipelines"][1].update(rows_independent=False), "pipeline detect: rows_independent is True in the code"),
        (lambda m: m.update(modules=["pipes", "nowhere"]), "module nowhere cannot be imported"),
    ],
)
def test_the_probe_tells_how_code_and_manifest_differ(package: Path, change: Any, sentence: str) -> None:
    """The first difference is the error, with exit code 1."""
    manifest = _made(package)
    change(manifest)

    code, answer = _probe(package, manifest)

    assert code == 1
    assert answer["ok"] is False
    assert sentence in answer["error"]["message"]


def test_an_installed_package_s_manifest_is_found_by_any_spelling_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dist-info on sys.path is found by the normalised name; a missing one names the environment."""
    folder = tmp_path / "My_Pipes-1.0.dist-info" / "millstream"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"package":"my-pipes","version":"1.0","build_id":"b","modules":["pipes"]}')
    monkeypatch.setattr(sys, "path", [str(tmp_path / "not there"), str(tmp_path)])

    assert installed_manifest("my.pipes").package == "my-pipes"
    with pytest.raises(ManifestError, match="no distribution other is installed in"):
        installed_manifest("other")


def test_a_worker_is_started_by_the_name_of_its_package(package: Path) -> None:
    """--package reads the manifest that the installed distribution carries in its dist-info."""
    folder = package / "pipes-1.0.dist-info" / "millstream"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(_made(package)))

    done = _run("millstream.worker", "--probe", "--package", "Pipes", "--path", str(package))

    assert msgspec.json.decode(done.stdout)["ok"] is True


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--manifest", "nowhere.json", "--probe"], "the manifest nowhere.json cannot be read: No such file or directory"),
        (["--package", "no-such-package", "--probe"], "no distribution no-such-package is installed"),
        (["--package", "x"], "--fd is needed without --probe"),
        ([], "one of the arguments --package --manifest is required"),
    ],
)
def test_a_worker_that_cannot_start_says_why(arguments: list[str], sentence: str) -> None:
    """The exit code is 2 and the reason is on standard error."""
    done = _run("millstream.worker", *arguments)

    assert done.returncode == 2
    assert sentence in done.stderr


def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    """The sentence names the file and what is wrong in it."""
    (tmp_path / "m.json").write_text('{"package": 1}')

    done = _run("millstream.worker", "--probe", "--manifest", str(tmp_path / "m.json"))

    assert done.returncode == 2
    assert "m.json is no manifest: Expected `str`, got `int` - at `$.package`" in done.stderr
