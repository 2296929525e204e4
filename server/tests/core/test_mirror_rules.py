"""The rules of what a mirror shows: names and texts as MLflow takes them, whatever a run's parameters and metrics are called."""

from __future__ import annotations

import posixpath
import re

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from millstream_server.core.mirror import LONGEST_VALUE, MOST_PARAMETERS, flat_parameters, mirrored_run
from millstream_server.core.run import Run

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def taken_by_mlflow(name: str) -> bool:
    """MLflow's rule for names of parameters and metrics. Source: mlflow 3.17.2, utils/validation.py."""
    path = posixpath.normpath(name)
    unique = path == name and path != "." and not path.startswith(("..", "/"))
    return re.match(r"^[/\w.\- :]*$", name) is not None and unique and 0 < len(name) <= 250


@given(JSON)
def test_any_parameters_become_names_and_texts_that_are_taken(params: object) -> None:
    """Objects, lists, numbers, at any depth, with any names."""
    flat = flat_parameters(msgspec.json.encode(params))

    assert all(taken_by_mlflow(name) for name in flat)
    assert all(len(value) <= LONGEST_VALUE for value in flat.values())


@given(st.binary())
def test_parameters_that_are_no_json_are_shown_as_text(params: bytes) -> None:
    """Nothing that a caller wrote stops the mirror."""
    assert all(taken_by_mlflow(name) for name in flat_parameters(params))


def test_parameters_of_objects_have_paths_for_names() -> None:
    """As a data scientist would write them into a search; what is no object is its JSON."""
    flat = flat_parameters(b'{"source":"lake","search":{"rate":0.5,"grid":{"depth":[1,2]}},"none":null,"empty":{}}')

    assert flat == {"source": "lake", "search.rate": "0.5", "search.grid.depth": "[1,2]", "none": "null", "empty": "{}"}


def test_very_many_parameters_are_cut() -> None:
    """A page with thousands of them would help nobody, and MLflow takes a hundred in one call."""
    assert len(flat_parameters(msgspec.json.encode({f"p{n}": n for n in range(1_000)}))) == MOST_PARAMETERS


@given(st.dictionaries(st.text(), st.floats()))
def test_any_metric_has_a_name_that_is_taken(metrics: dict[str, float]) -> None:
    """Authors call metrics what they like."""
    run = Run("R", "acme", "learn", "churn", "churn", "SUCCEEDED", "k", b"{}", 1, 3, 1_000, ended_ms=2_000, metrics=metrics)

    assert all(taken_by_mlflow(name) for name in mirrored_run(run, "s").metrics)


def test_a_pipeline_without_a_model_has_an_experiment_of_its_own() -> None:
    """And says nothing of versions."""
    run = Run("R", "acme", "tidy", "churn", "", "FAILED", "k", b"{}", 1, 3, 1_000, ended_ms=2_000)

    shown = mirrored_run(run, "s")

    assert (shown.experiment, shown.status, shown.started_ms) == ("acme.tidy", "FAILED", 1_000)
    assert not {"millstream.model", "millstream.model_version"} & shown.tags.keys()
