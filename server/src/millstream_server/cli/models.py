"""`models`: every version of every tenant's model, and where it comes from; what changes them is in the modules beside this one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from millstream_server.cli.champions import pin, promote, rollback, unpin
from millstream_server.cli.delete_model import delete
from millstream_server.cli.frame import Group, Invocation, as_json, common, pass_invocation
from millstream_server.cli.import_model import import_

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.core.model import ModelState, ModelVersion
    from millstream_server.core.run import Run


@click.group(
    cls=Group,
    examples=[
        ("millstream models list", ""),
        ("millstream models show acme.anomaly", ""),
        ("millstream models rollback acme.anomaly", "the version before answers again"),
    ],
)
@common
def models() -> None:
    """Look at models, choose which version answers, delete one, import one of MLflow."""


for command in (promote, rollback, pin, unpin, delete, import_):
    models.add_command(command)


@models.command(
    "list",
    examples=[
        ("millstream models list", ""),
        ("millstream models list --tenant acme", ""),
        ("millstream models list --json", "with every version's lineage, files, hashes and signature"),
    ],
)
@click.option("--tenant", default="", metavar="T", help="Of this tenant only.")
@as_json
@common
@pass_invocation
def list_(invocation: Invocation, tenant: str, as_json: bool) -> None:
    """List models with their champion: the version that answers."""
    from millstream_server.cli.printing import Column, brief_moment, moment, print_json, print_table
    from millstream_server.cli.versions import versions_of

    with invocation.ports() as ports:
        found = [(state, versions_of(ports, state)) for state in ports.store.models() if tenant in ("", state.tenant)]
        if as_json:
            print_json([_as_json(ports, state, versions) for state, versions in found])
            return
    rows = []
    for state, versions in found:
        champion = next((v for v in versions if v.version == state.champion), None)
        made = (_label(champion), moment(champion.created_ms), champion.run) if champion is not None else ("-", "-", "-")
        rows.append((state.key, str(state.champion or "-"), str(sum(not v.is_deleted for v in versions)), *made))
    nothing = "no model yet; train one: millstream invoke PIPELINE --tenant T"
    columns = ("MODEL", "CHAMPION", "VERSIONS", "RELEASE", Column("CREATED", brief_moment), "RUN")
    print_table(columns, rows, nothing=nothing)


@models.command(examples=[("millstream models show acme.anomaly", ""), ("millstream models show acme.anomaly --json", "")])
@click.argument("model", metavar="TENANT.MODEL")
@as_json
@common
@pass_invocation
def show(invocation: Invocation, model: str, as_json: bool) -> None:
    """Show one model: who promoted what, and every version with release, run, parameters, metrics, files and signature."""
    from millstream_server.cli.printing import facts, print_json
    from millstream_server.cli.versions import unknown_model, versions_of

    tenant, _, name = model.partition(".")
    with invocation.ports() as ports:
        state = ports.store.model(tenant, name)
        if state is None:
            raise unknown_model(ports, model)
        versions = versions_of(ports, state)
        if as_json:
            print_json(_as_json(ports, state, versions))
            return
        click.echo(_headline(state))
        for version in reversed(versions):
            marks = ", ".join(_marks(state, version))
            click.echo(f"\nversion {version.version}{f' ({marks})' if marks else ''}")
            for line in facts(_described(ports, state, version)):
                click.echo(f"  {line}")


def _headline(state: ModelState) -> str:
    """The model and its references: `acme.scale  champion 3  previous 2  pinned 1`."""
    if not state.champion:
        return f"{state.key}  no version answers: none was trained that is not deleted or held back by its gate"
    pinned = f"  pinned {', '.join(map(str, state.pins))}" if state.pins else ""
    return f"{state.key}  champion {state.champion}  previous {state.previous or 'none'}{pinned}"


def _marks(state: ModelState, version: ModelVersion) -> list[str]:
    """What a version is to its model."""
    number = version.version
    marks = (
        ("champion", number == state.champion),
        ("previous", number == state.previous),
        ("pinned", number in state.pins),
        ("held back", bool(version.held_back) and number not in (state.champion, state.previous)),
        ("deleted", version.is_deleted),
    )
    return [mark for mark, is_so in marks if is_so]


def _described(ports: Ports, state: ModelState, version: ModelVersion) -> list[tuple[str, str]]:
    """The lineage of one version, as names and values."""
    from millstream_server.cli.printing import moment

    run = ports.store.run(version.run)
    metrics = ", ".join(f"{key} {value:g}" for key, value in version.metrics.items())
    pairs = [
        ("release", f"{_label(version)} (build {version.build_id})"),
        ("lock", f"SHA-256 {run.lock_sha256}" if run is not None and run.lock_sha256 else ""),
        _made(run, version),
        ("promoted", _promoted(state) if version.version == state.champion else ""),
        ("held back", version.held_back or ""),
        ("params", _spoken_params(run, version)),
        ("metrics", metrics or "none"),
        ("signed by", version.artifact.key_id),
    ]
    if version.is_deleted:
        pairs.append(("deleted", f"{moment(version.deleted_ms or 0)} by {version.deleted_by}; its number is not given again"))
    else:
        pairs.insert(-1, ("files", f"{version.size_bytes} bytes in {ports.artifacts.place(version.location)}"))
    return [(name, value) for name, value in pairs if value]


def _made(run: Run | None, version: ModelVersion) -> tuple[str, str]:
    """Where a version comes from: a training, or whoever imported it; its parameters say the rest."""
    from millstream_server.cli.printing import moment
    from millstream_server.cli.versions import was_imported

    if was_imported(run):
        said = msgspec.json.decode(version.params_json)
        return "imported", f"{moment(version.created_ms)} from {said['imported_from']} by {said['imported_by']}, as run {version.run}"
    return "trained", f"{moment(version.created_ms)} by run {version.run}, attempt {version.attempt}"


def _promoted(state: ModelState) -> str:
    """When the champion became that, and by whom; empty for a state that was written before that was recorded."""
    from millstream_server.cli.printing import moment

    return f"{moment(state.promoted_ms or 0)} by {state.promoted_by}" if state.promoted_by else ""


def _left_out_bytes(run: Run | None, version: ModelVersion) -> int:
    """The size of parameters that were too large to travel with the version, else 0: its run has them whole."""
    if version.params_json != "{}":
        return 0
    return len(run.params) if run is not None and run.params.strip() != b"{}" else 0


def _spoken_params(run: Run | None, version: ModelVersion) -> str:
    from millstream_server.cli.printing import params_in_short

    size_bytes = _left_out_bytes(run, version)
    return (
        f"too large, {size_bytes} bytes; see: millstream runs show {version.run} --json"
        if size_bytes
        else params_in_short(version.params_json.encode())
    )


def _label(version: ModelVersion) -> str:
    return f"{version.package}=={version.release}"


def _as_json(ports: Ports, state: ModelState, versions: list[ModelVersion]) -> dict[str, object]:
    return {
        "model": state.key,
        "tenant": state.tenant,
        "name": state.model,
        "revision": state.revision,
        "champion": state.champion,
        "previous": state.previous,
        "pinned": state.pins,
        "promoted_by": state.promoted_by or "",
        "promoted_ms": state.promoted_ms or 0,
        "public_key": str(ports.signing_key.with_name(ports.signing_key.name + ".pub")),
        "versions": [_version_as_json(ports, state, version) for version in versions],
    }


def _version_as_json(ports: Ports, state: ModelState, version: ModelVersion) -> dict[str, object]:
    """One version: `manifest` is the exact text that was signed, so that anybody can check the signature again.

    `params` is null where they were too large to travel with the version; `params_size_bytes` then says how large, and the run has them.
    """
    run = ports.store.run(version.run)
    left_out_bytes = _left_out_bytes(run, version)
    return {
        "version": version.version,
        "champion": version.version == state.champion,
        "previous": version.version == state.previous,
        "pinned": version.version in state.pins,
        "held_back": version.held_back or "",
        "deleted": version.is_deleted,
        **({"deleted_by": version.deleted_by, "deleted_ms": version.deleted_ms} if version.is_deleted else {}),
        "package": version.package,
        "release": version.release,
        "label": _label(version),
        "build_id": version.build_id,
        "lock_sha256": run.lock_sha256 if run is not None else "",
        "python": run.python if run is not None else "",
        "run": version.run,
        "attempt": version.attempt,
        "created_ms": version.created_ms,
        "params": None if left_out_bytes else msgspec.json.decode(version.params_json),
        **({"params_size_bytes": left_out_bytes} if left_out_bytes else {}),
        "metrics": version.metrics,
        "size_bytes": version.size_bytes,
        "location": ports.artifacts.place(version.location),
        "manifest": version.artifact.manifest,
        "signature": version.artifact.signature,
        "key_id": version.artifact.key_id,
    }
