"""`models import`: a model that was logged with MLflow becomes a release that serves it and a version of a tenant's model.

The release is built, published and deployed as an author's is; then the model's files are sealed and signed, and its version is written
with a run that stands for its making. What fails before that changes no answer of anybody.
"""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from millstream_server.cli.champions import follow_wish
from millstream_server.cli.frame import Command, Invocation, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.core.errors import MillstreamError
    from millstream_server.core.model import ModelState, ModelVersion
    from millstream_server.core.release import Release
    from millstream_server.core.run import Run
    from millstream_server.environments.mlflow_models.model import MlflowModel
    from millstream_server.environments.mlflow_models.package import Plan

_ADDRESSES = ("models:/", "runs:/", "mlflow-artifacts:/")
IMPORTED = "by import"
"""Stands for the node in the run of an imported version; no node has a name with a space."""

MOST_PUBLISHED = 20
"""Published releases of the package that are looked into for one that serves the model already, the newest first."""


@click.command(
    "import",
    cls=Command,
    examples=[
        ("millstream models import ./churn-model --tenant acme --name churn", "then: millstream invoke churn --tenant acme --params ..."),
        ("millstream models import ./churn-model --tenant acme --name churn --no-promote", "to look at it first: millstream models show"),
        ("millstream models import ./old --tenant acme --name churn --python 3.11 --requirements needs.txt", "in another environment"),
    ],
)
@click.argument("source", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--tenant", required=True, metavar="T", help="Whose model it becomes.")
@click.option("--name", required=True, metavar="M", help="The model's name.")
@click.option("--pipeline", default="", metavar="NAME", help="The pipeline that answers with it. [default: the model's name]")
@click.option("--promote/--no-promote", default=True, help="Make it the champion, which answers; or leave that for later.")
@click.option("--python", default="", metavar="3.X", help="This Python, in the place of the one that the model was logged with.")
@click.option(
    "--requirements",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="These requirements, in the place of the model's own.",
)
@click.option("--allow-breaking", is_flag=True, help="Although callers of the pipeline lose something by the model's signature.")
@common
@pass_invocation
def import_(
    invocation: Invocation,
    source: Path,
    tenant: str,
    name: str,
    pipeline: str,
    promote: bool,
    python: str,
    requirements: Path | None,
    allow_breaking: bool,
) -> int:
    """Take in a model that was logged with MLflow, and serve it.

    FOLDER holds the file MLmodel: what `mlflow artifacts download` leaves. Its requirements become a release, installed like any
    other; its signature becomes what the pipeline takes: `rows`, a list of objects with the columns, or `inputs`, the tensor or the
    tensors by name, and `params` where it has any. A model with the same requirements, signature and modules shares the release of
    the one before. Importing runs nothing of the model; serving it does: import from people whom you trust.
    """
    from millstream_server.core.names import check_name
    from millstream_server.environments.mlflow_models.model import read_model
    from millstream_server.environments.mlflow_models.package import plan_package

    check_name("tenant", tenant)
    _refuse_no_folder(source)
    model = read_model(source, requirements=requirements, python=_minor(python))
    plan = plan_package(model, name, pipeline or name)
    with invocation.ports() as ports:
        _refuse_others(ports, plan, tenant, name)
        release = _release_of(ports, plan)
        if release is None:
            release = _build(invocation, ports, plan, model)
        code = _deploy(ports, release, allow_breaking)
        if code:
            return code
        before, after, version = _register(ports, plan, model, release, tenant, name, promote)
        said = f"{after.key} v{version.version} is imported from {source}"
        if not promote:
            click.echo(f"{said}; to let it answer: millstream models promote {after.key} {version.version}", err=True)
            return 0
        until = f"; v{before.champion} answers until it is loaded" if before.champion else ""
        click.echo(f"{said} and is the champion{until}", err=True)
        done = follow_wish(ports, after, version)
        if not done:
            click.echo(
                f"next: millstream releases show {release.label}; millstream invoke {plan.pipeline} --tenant {tenant} --params ...",
                err=True,
            )
        return done


def _refuse_no_folder(source: Path) -> None:
    """See that there is a folder.

    Raises:
        Invalid: bad_mlflow_model.
    """
    from millstream_server.core.errors import Invalid

    if source.is_dir():
        return
    said = str(source)
    if said.startswith(_ADDRESSES):
        mend = f"fetch it first, with MLflow: mlflow artifacts download --artifact-uri {shlex.quote(said)} --dst-path model"
        raise Invalid("bad_mlflow_model", f"{said} is an address of MLflow, expected a folder", mend=mend)
    mend = "name the folder that holds the file MLmodel"
    raise Invalid("bad_mlflow_model", f"there is no folder {source}", where=str(source.absolute()), mend=mend)


def _minor(text: str) -> str:
    """3.11 of 3.11 or 3.11.7."""
    import re

    found = re.match(r"(3\.\d+)(\.\d+)?\Z", text)
    if text and found is None:
        raise click.BadParameter(f"{text!r} is no version of Python such as 3.11", param_hint="--python")
    return found[1] if found else ""


def _refuse_others(ports: Ports, plan: Plan, tenant: str, name: str) -> None:
    """See that the names are free, or those of an import before.

    Raises:
        Invalid: pipeline_name_taken, somebody wrote a package of this name, or another package makes the tenant's model.
    """
    from millstream_server.core.errors import Invalid
    from millstream_server.environments.mlflow_models.package import is_of_imports
    from millstream_server.environments.releases import read_release

    mend = f"give it a pipeline of its own: --pipeline {name}-mlflow"
    state = ports.store.package(plan.package)
    manifests = [release.manifest for release in state.releases] if state is not None else []
    entries = ports.index.entries(plan.package)
    if not manifests and entries:
        manifests = [read_release(ports.index, plan.package, entries[-1].version).manifest]
    other = next((each for each in manifests if not is_of_imports(each)), None)
    if other is not None:
        message = f"{other.package}=={other.version} is a package that somebody wrote, and no release of it can be made by an import"
        raise Invalid("pipeline_name_taken", message, mend=mend)
    model = ports.store.model(tenant, name)
    champion = model.find(model.champion) if model is not None else None
    if champion is not None and champion.package != plan.package:
        raise Invalid(
            "pipeline_name_taken",
            f"{tenant}.{name} is a model of the package {champion.package}, whose pipelines ask for it",
            mend=f"give it a name of its own: --name {name}-mlflow",
        )


def _release_of(ports: Ports, plan: Plan) -> Release | None:
    """A release that serves such models already: one that nodes know, else one that is published."""
    from millstream_server.environments.releases import read_release

    state = ports.store.package(plan.package)
    known = state.releases if state is not None else ()
    found = next((each for each in reversed(known) if plan.fits(each.manifest)), None)
    if found is not None:
        return found
    for entry in reversed(ports.index.entries(plan.package)[-MOST_PUBLISHED:]):
        release = read_release(ports.index, plan.package, entry.version)
        if plan.fits(release.manifest):
            return release
    return None


def _build(invocation: Invocation, ports: Ports, plan: Plan, model: MlflowModel) -> Release:
    """Build and publish a release for the model, as the next version of its package.

    Raises:
        Invalid: lock_unresolvable, no_wheel, import_failed and what else a build may say. Unavailable: no_interpreter.
    """
    from millstream_server import app
    from millstream_server.cli.printing import LivePhases, Ticking, caution
    from millstream_server.core.errors import MillstreamError
    from millstream_server.environments.build import build_package
    from millstream_server.environments.mlflow_models.package import write_package
    from millstream_server.environments.releases import read_release

    if model.takes.kind == "anything":
        caution(
            "the model has no signature, so nothing is checked before the model itself is asked",
            "log it with one: signature=mlflow.models.infer_signature(inputs, outputs)",
        )
    version = _next_version(ports, plan.package)
    live = LivePhases()
    arguments = app.index_arguments(invocation.settings(), releases=True)
    with tempfile.TemporaryDirectory(prefix="millstream-import-") as scratch:
        folder = Path(scratch) / "package"
        folder.mkdir()
        write_package(plan, folder, version)
        try:
            with Ticking(live):
                built = build_package(folder, Path(scratch) / "dist", index_arguments=arguments, on_phase=live.begin)
        except MillstreamError as error:
            live.drop()
            raise _of_the_model(error, model) from error
        except BaseException:
            live.drop()
            raise
        live.end()
        ports.index.publish(built.wheel)
    click.echo(f"built and published {plan.package}=={version} for Python {built.manifest.python} ({', '.join(plan.flavors)})", err=True)
    return read_release(ports.index, plan.package, version)


def _of_the_model(error: MillstreamError, model: MlflowModel) -> MillstreamError:
    """What a build says, with the model's folder in the place of ours, and what a person can do about a model."""
    mend = error.mend
    if error.code in ("lock_unresolvable", "no_wheel"):
        mend = "write requirements that can be installed here, and import it with: --requirements FILE"
    elif error.code == "no_interpreter":
        mend = f"{mend}; or try a Python that is here, which may not load the model: --python 3.X"
    elif error.code in ("import_failed", "bad_pipeline"):
        mend = "see what its requirements lack, and import it with: --requirements FILE"
    return type(error)(error.code, error.message, where=str(model.folder), mend=mend)


def _next_version(ports: Ports, package: str) -> str:
    from packaging.version import Version

    state = ports.store.package(package)
    known = [entry.version for entry in ports.index.entries(package)] + [each.version for each in (state.releases if state else ())]
    return f"{max((Version(each).major for each in known), default=0) + 1}.0.0"


def _deploy(ports: Ports, release: Release, allow_breaking: bool) -> int:
    """See that nodes take the release up; those that retired are taken up again by the model's version itself.

    Raises:
        Invalid: breaks_callers, pipeline_name_taken, deploy_failed.
    """
    from millstream_server.cli.deploy import Target, follow_deployment
    from millstream_server.cli.deploy import begin as begin_deploy

    state = ports.store.package(release.manifest.package)
    known = state.by_build(release.build_id) if state is not None else None
    if known is not None and known.status in ("CURRENT", "KEPT"):
        click.echo(f"{known.label} serves it as it is", err=True)
        return 0
    wanted = begin_deploy(ports, Target(release.manifest.package, release.version), allow_breaking)
    return follow_deployment(ports, wanted) if wanted is not None else 0


def _register(
    ports: Ports, plan: Plan, model: MlflowModel, release: Release, tenant: str, name: str, champion: bool
) -> tuple[ModelState, ModelState, ModelVersion]:
    """Seal and sign the model's files, and write its version: the state before and after."""
    from millstream_server.cli.versions import TRIES, asker, lost_races, now_ms
    from millstream_server.core.ids import new_id
    from millstream_server.core.model import ModelState
    from millstream_server.core.models_by_hand import import_version
    from millstream_server.environments.mlflow_models.package import write_files

    key, run = f"{tenant}.{name}", new_id(now_ms())
    staged = ports.artifacts.stage(key, run, 1)
    try:
        write_files(model, staged)
        location = ports.artifacts.seal(staged)
    except BaseException:
        ports.artifacts.discard(staged)
        raise
    try:
        by = asker()
        for _ in range(TRIES):
            state = ports.store.model(tenant, name) or ModelState(tenant, name)
            version = _version(ports, state, release, run, location, model, by, now_ms())
            after = import_version(state, version, by, champion=champion)
            if ports.store.save_import(_run_of(plan, release, tenant, name, version), after):
                return state, after, version
        raise lost_races(key)
    except BaseException:
        ports.artifacts.remove(location)  # no version names it
        raise


def _version(
    ports: Ports, state: ModelState, release: Release, run: str, location: str, model: MlflowModel, by: str, now: int
) -> ModelVersion:
    """The version with its signed manifest; its parameters say where the model was made, who imported it and when."""
    import msgspec

    from millstream_server.core.model import ArtifactManifest, ModelVersion, SignedArtifact, encode_artifact_manifest

    package = release.manifest.package
    files = ports.artifacts.hash_files(ports.artifacts.fetch(location))
    manifest = ArtifactManifest(
        state.tenant, state.model, state.next_version, run, 1, package, release.version, release.build_id, now, files
    )
    text = encode_artifact_manifest(manifest)
    signature, key_id = ports.signer.sign(text)
    origin = {f"mlflow_{name.removeprefix('mlflow_')}": value for name, value in model.origin.items()}
    said = {"imported_from": str(model.folder), "imported_by": by, "flavors": list(model.flavors), **origin}
    return ModelVersion(
        version=state.next_version,
        package=package,
        release=release.version,
        build_id=release.build_id,
        run=run,
        attempt=1,
        location=location,
        artifact=SignedArtifact(text.decode(), signature, key_id),
        created_ms=now,
        params_json=msgspec.json.encode(said).decode(),
        size_bytes=sum(each.size_bytes for each in files),
    )


def _run_of(plan: Plan, release: Release, tenant: str, name: str, version: ModelVersion) -> Run:
    """The run that stands for the making of an imported version: it was made elsewhere, and ended before it came here."""
    from millstream_server.core.run import Attempt, Run

    now, manifest = version.created_ms, release.manifest
    return Run(
        run=version.run,
        tenant=tenant,
        pipeline=plan.pipeline,
        package=manifest.package,
        model=name,
        state="SUCCEEDED",
        idempotency_key=version.run,
        params=version.params_json.encode(),
        attempt=1,
        max_attempts=1,
        created_ms=now,
        started_ms=now,
        ended_ms=now,
        release=manifest.version,
        build_id=manifest.build_id,
        python=manifest.python,
        lock_sha256=manifest.lock_sha256,
        model_version=version.version,
        attempts=(Attempt(1, IMPORTED, manifest.version, manifest.build_id, now, now, "succeeded"),),
    )
