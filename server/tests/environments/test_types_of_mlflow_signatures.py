"""The modules that every imported model's package has: types made of a signature, data made for the model, and folders laid flat."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy
import pandas
import pytest
from millstream_server.environments.mlflow_models.package import TEMPLATE


def loaded(name: str) -> ModuleType:
    """A module of the template, as a package has it."""
    loader = SourceFileLoader(f"template_{name}", str(TEMPLATE / f"{name}.py.in"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


types_of, layout = loaded("types_of"), loaded("layout")


def column(kind: str, name: str | None = "a", **other: object) -> dict[str, Any]:
    return {"type": kind, **({"name": name} if name is not None else {}), "required": True, **other}


def tensor(dtype: str, *shape: int, name: str | None = None) -> dict[str, Any]:
    return {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}, **({"name": name} if name else {})}


def taken(kind: str, inputs: list[dict[str, Any]], sent: object, *, as_list: bool = False) -> Any:
    """What the model is handed for what a caller sent."""
    rows = msgspec.json.decode(json.dumps(sent).encode(), type=types_of.rows_type(kind, inputs))
    return types_of.data_of(kind, inputs, as_list, rows)


@pytest.mark.parametrize(
    ("kind", "sent", "dtype", "value"),
    [
        ("boolean", True, "bool", True),
        ("integer", 7, "int32", 7),
        ("long", 2**40, "int64", 2**40),
        ("float", 1, "float32", 1.0),
        ("double", 0.1, "float64", 0.1),
        ("binary", "aGk=", "object", b"hi"),
        ("datetime", "2026-01-02T03:04:05+01:00", "datetime64[ns]", pandas.Timestamp("2026-01-02T02:04:05")),
        ("any", {"x": [1]}, "object", {"x": [1]}),
    ],
)
def test_a_column_has_the_very_type_of_the_signature(kind: str, sent: object, dtype: str, value: object) -> None:
    """MLflow refuses a frame whose types are not exactly those, so JSON's numbers are made them."""
    frame = taken("records", [column(kind)], [{"a": sent}])

    assert str(frame["a"].dtype) == dtype
    assert frame["a"][0] == value


def test_null_is_a_missing_number_or_text_and_nothing_else() -> None:
    """Floating-point numbers and texts may be missing; whole numbers, times and bytes may not."""
    frame = taken("records", [column("double"), column("string", "b")], [{"a": None, "b": None}, {"a": 1, "b": "x"}])

    assert numpy.isnan(frame["a"][0])
    assert frame["b"][0] is None
    for kind in ("integer", "long", "boolean", "binary", "datetime"):
        with pytest.raises(msgspec.ValidationError, match=r"\$\[0\]\.a"):
            taken("records", [column(kind)], [{"a": None}])


def test_a_column_that_is_not_required_may_be_left_out_and_others_may_not() -> None:
    """A frame without it is what MLflow expects; one that some rows have is filled with nothing."""
    inputs = [column("double"), column("string", "b", required=False)]

    assert list(taken("records", inputs, [{"a": 1}]).columns) == ["a"]
    assert list(taken("records", inputs, [{"a": 1}, {"a": 2, "b": "x", "c": "not asked for"}])["b"]) == [None, "x"]
    with pytest.raises(msgspec.ValidationError, match="missing required field `a`"):
        taken("records", inputs, [{"b": "x"}])
    assert len(taken("records", [column("double", "b", required=False)], [{}, {}])) == 2


def test_numbers_beyond_a_type_are_refused_with_their_place() -> None:
    """An integer of MLflow has 32 bits, a long 64."""
    for kind, value in (("integer", 2**31), ("long", 2**63), ("boolean", 1), ("string", 1)):
        with pytest.raises(msgspec.ValidationError, match=r"\$\[0\]\.a"):
            taken("records", [column(kind)], [{"a": value}])


def test_tensors_are_arrays_of_their_type_and_sizes_are_held_to() -> None:
    """One tensor, or several by name; a size of -1 is any."""
    one = taken("tensor", [tensor("float32", -1, 2)], [[1, 2.5], [None, 4]])
    several = taken("tensors", [tensor("int64", -1, name="x"), tensor("str", 1, name="y")], {"x": [1], "y": ["z"]})

    assert (str(one.dtype), one.shape, bool(numpy.isnan(one[1, 0]))) == ("float32", (2, 2), True)
    assert (str(several["x"].dtype), several["y"].tolist()) == ("int64", ["z"])
    with pytest.raises(msgspec.ValidationError, match="length >= 2"):
        taken("tensor", [tensor("float32", -1, 2)], [[1]])


def test_columns_without_names_are_values() -> None:
    """A list of them, or of lists; a model made from a type hint is handed the list itself."""
    inner = {"type": "object", "properties": {"b": column("array", None, items={"type": "long"})}}

    assert taken("values", [column("string", None)], ["x", "y"])[0].tolist() == ["x", "y"]
    assert taken("values", [column("string", None), column("long", None)], [["x", 1]]).iloc[0].tolist() == ["x", 1]
    assert taken("values", [inner], [{"b": [1]}], as_list=True) == [{"b": [1]}]
    assert taken("values", [{"type": "map", "values": {"type": "double"}}], [{"k": 1}], as_list=True) == [{"k": 1.0}]


def test_without_a_signature_objects_are_a_frame_and_the_rest_an_array() -> None:
    """Nobody has said more."""
    assert list(taken("anything", [], [{"x": 1}, {"y": 2}]).columns) == ["x", "y"]
    assert taken("anything", [], [[1, 2]]).shape == (1, 2)


def test_parameters_that_are_left_out_stay_the_models_own() -> None:
    """What is sent is given by MLflow's names, whatever characters they have; a misspelt one is refused."""
    kind = types_of.params_type(
        [{"name": "top-k", "type": "integer", "default": 3, "shape": None}, {"name": "w", "type": "double", "shape": [-1]}]
    )

    given = [types_of.params_given(msgspec.json.decode(sent, type=kind)) for sent in (b'{"top-k": 2}', b'{"w": [1, 2]}', b"{}", b"null")]

    assert given == [{"top-k": 2}, {"w": [1.0, 2.0]}, None, None]
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"top_k": 2}', type=kind)


def test_a_folder_laid_flat_is_the_same_folder_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files of one name, a folder in a folder; and what a process that was killed left is removed by the next one."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source, flat = tmp_path / "source", tmp_path / "flat"
    (source / "a" / "b").mkdir(parents=True)
    flat.mkdir()
    (source / "MLmodel").write_text("1")
    (source / "a" / "b" / "MLmodel").write_text("2")
    (tmp_path / "mlflow-scratch-killed").mkdir()
    (tmp_path / "mlflow-scratch-killed.lock").touch()

    layout.pack(source, flat, "a")
    tree, has_modules = layout.unpack(flat)
    second, _ = layout.unpack(flat)

    assert has_modules
    assert {each.relative_to(tree.path).as_posix(): each.read_text() for each in tree.path.rglob("*") if each.is_file()} == {
        "MLmodel": "1",
        "a/b/MLmodel": "2",
    }
    assert not (tmp_path / "mlflow-scratch-killed").exists()
    tree.close()
    second.close()
    assert not list(tmp_path.glob("mlflow-scratch-*"))


@pytest.mark.parametrize("files", [{"../out": "00000-x"}, {"a//b": "00000-x"}, {"a": "../x"}, {"/a": "x"}])
def test_a_layout_that_leads_out_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    """It is signed; all the same nobody's mistake writes outside of the model's folder."""
    (tmp_path / "layout.json").write_text(json.dumps({"format": 1, "modules": "", "files": files}))

    with pytest.raises(ValueError, match="no places"):
        layout.unpack(tmp_path)


def test_a_model_that_the_workers_tmp_cannot_hold_says_so_before_it_fills_it(tmp_path: Path) -> None:
    """In a sandbox /tmp is memory with a limit of its own, which no MLflow model knows of; the setting is named."""
    packed, small = tmp_path / "packed", tmp_path / "small"
    packed.mkdir()
    small.mkdir()
    (packed / "00000-model.bin").write_bytes(b"x" * 200_000)
    (packed / layout.LAYOUT).write_text(json.dumps({"format": 1, "modules": "", "files": {"model.bin": "00000-model.bin"}}))
    (tmp_path / "layout.py").write_text((TEMPLATE / "layout.py.in").read_text())
    ask = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import layout, pathlib; layout.unpack(pathlib.Path({str(packed)!r}))"
    inside = ["bwrap", "--bind", "/", "/", "--size", "131072", "--tmpfs", str(small), "--setenv", "TMPDIR", str(small)]

    ended = subprocess.run([*inside, sys.executable, "-c", ask], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert f"bytes in {small}, which has 1" in ended.stderr
    assert "see worker.tmp_bytes" in ended.stderr
