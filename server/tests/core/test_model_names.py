"""What a release's names of models mean for tenants who have models."""

from __future__ import annotations

from millstream_server.core.model import ModelState, ModelVersion, SignedArtifact
from millstream_server.core.model_names import left_behind, never_trained
from millstream_server.core.release import Manifest, PipelineSpec, Release


def training(name: str, model: str) -> PipelineSpec:
    return PipelineSpec(name, "training", "m", name, model, parameters={"required": ["values"]})


def inference(name: str, model: str = "") -> PipelineSpec:
    return PipelineSpec(name, "inference", "m", name, model)


def release(version: str, *pipelines: PipelineSpec) -> Release:
    manifest = Manifest(1, "shop", version, f"{version}+b", "3.11", "", "0.1.0", "2026-11-21", ("m",), "c", "l", pipelines)
    return Release(manifest, "shop.whl", "f" * 64, "CURRENT")


def model(tenant: str, name: str = "usual", package: str = "shop") -> ModelState:
    version = ModelVersion(1, package, "1", "1+b", "r", 1, "l", SignedArtifact("{}", "s", "k"), 5)
    return ModelState(tenant, name, 1, champion=1, versions=(version,), last_version=1)


OLD = release("1", training("learn", "usual"), inference("judge", "usual"), inference("score", "usual"))


def test_a_model_that_nothing_of_the_package_trains_is_told_with_who_asks_for_it() -> None:
    """The names that its trainings do make are told too: one of them is most likely meant."""
    manifest = release(
        "1", training("learn", "usual"), inference("judge", "usuall"), inference("score", "usuall"), inference("plain")
    ).manifest

    (caution,) = never_trained(manifest)

    assert caution.message == "no training of shop makes the model usuall, which judge, score names; its trainings make usual"
    assert '@ms.training(model="usuall")' in caution.mend


def test_a_package_whose_names_agree_is_told_nothing() -> None:
    """Models that are trained, and inferences without one, are as they should be."""
    assert never_trained(OLD.manifest) == []
    assert left_behind(OLD, release("2", *OLD.manifest.pipelines), [model("acme")]) == []


def test_a_pipeline_that_asks_for_another_model_leaves_tenants_without_one() -> None:
    """The tenants are named, and the training that gives them one, with dots where values belong."""
    new = release("2", training("learn", "normal"), inference("judge", "normal"), inference("score", "normal"))

    (caution,) = left_behind(
        OLD, new, [model("globex"), model("acme"), model("ready"), model("ready", "normal"), model("x", package="other")]
    )

    assert caution.message == (
        "judge, score of shop==2 ask for the model normal, not usual as before: 2 tenants (acme, globex) will get no-model"
    )
    assert caution.mend == "train each as soon as it is current: millstream invoke learn --tenant acme --params '{\"values\": ...}'"


def test_a_model_that_is_trained_no_more_lives_on_and_is_told() -> None:
    """A release that drops a training, or a whole model, leaves models that nobody can renew."""
    (caution,) = left_behind(OLD, release("2", inference("judge", "usual")), [model("acme")])

    assert caution.message == "no training of shop==2 makes the model usual: tenant acme can keep but never renew it"


def test_models_of_nobody_are_told_to_nobody() -> None:
    """Without a living model of the package no name can be missed."""
    assert left_behind(OLD, release("2", inference("judge", "normal")), [model("acme", package="other")]) == []
