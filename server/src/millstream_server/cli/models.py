"""`models`: every version of every tenant's model, and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from millstream_server.cli.frame import Group, Invocation, as_json, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.app import Ports
    from millstream_server.core.model import ModelState, ModelVersion


@click.group(cls=Group, examples=[("millstream models list", ""), ("millstream models show acme.anomaly", "")])
@common
def models() -> None:
    """Look at the models that training runs made."""


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
    from millstream_server.cli.printing import moment, print_json, print_table

    with invocation.ports() as ports:
        found = [(state, _versions(ports, state)) for state in ports.store.models() if tenant in ("", state.tenant)]
        if as_json:
            print_json([_as_json(ports, state, versions) for state, versions in found])
            return
    rows = []
    for state, versions in found:
        champion = next((v for v in versions if v.version == state.champion), None)
        made = (_label(champion), moment(champion.created_ms), champion.run) if champion is not None else ("-", "-", "-")
        rows.append((state.key, str(state.champion or "-"), str(len(versions)), *made))
    nothing = "no model yet; train one: millstream invoke PIPELINE --tenant T"
    print_table(("MODEL", "CHAMPION", "VERSIONS", "RELEASE", "TRAINED", "RUN"), rows, nothing=nothing)


@models.command(examples=[("millstream models show acme.anomaly", ""), ("millstream models show acme.anomaly --json", "")])
@click.argument("model", metavar="TENANT.MODEL")
@as_json
@common
@pass_invocation
def show(invocation: Invocation, model: str, as_json: bool) -> None:
    """Show one model: every version with release, run, parameters, metrics, files and signature."""
    from millstream_server.cli.printing import facts, moment, print_json
    from millstream_server.core.errors import Invalid

    tenant, _, name = model.partition(".")
    with invocation.ports() as ports:
        state = ports.store.model(tenant, name)
        if state is None:
            known = ", ".join(sorted(m.key for m in ports.store.models())[:10]) or "none"
            raise Invalid("unknown_model", f"there is no model {model}; there are {known}")
        versions = _versions(ports, state)
        if as_json:
            print_json(_as_json(ports, state, versions))
            return
        click.echo(f"{state.key}  champion {state.champion or 'none'}  previous {state.previous or 'none'}")
        for version in reversed(versions):
            mark = " (champion)" if version.version == state.champion else ""
            metrics = ", ".join(f"{key} {value:g}" for key, value in version.metrics.items())
            click.echo(f"\nversion {version.version}{mark}")
            pairs = (
                ("release", f"{_label(version)} (build {version.build_id})"),
                ("trained", f"{moment(version.created_ms)} by run {version.run}, attempt {version.attempt}"),
                ("params", _spoken_params(ports, version)),
                ("metrics", metrics or "none"),
                ("files", f"{version.size_bytes} bytes in {_location(ports, version)}"),
                ("signed by", version.artifact.key_id),
            )
            for line in facts(pairs):
                click.echo(f"  {line}")


def _versions(ports: Ports, state: ModelState) -> list[ModelVersion]:
    """Every version ever trained, oldest first."""
    return [version for _, version in ports.store.model_versions(tenant=state.tenant, model=state.model)]


def _left_out_bytes(ports: Ports, version: ModelVersion) -> int:
    """The size of parameters that were too large to travel with the version, else 0: its run has them whole."""
    if version.params_json != "{}":
        return 0
    run = ports.store.run(version.run)
    return len(run.params) if run is not None and run.params.strip() != b"{}" else 0


def _spoken_params(ports: Ports, version: ModelVersion) -> str:
    size_bytes = _left_out_bytes(ports, version)
    return f"too large, {size_bytes} bytes; see: millstream runs show {version.run} --json" if size_bytes else version.params_json


def _label(version: ModelVersion) -> str:
    return f"{version.package}=={version.release}"


def _location(ports: Ports, version: ModelVersion) -> Path:
    """Where the version's files are on this machine, or would be: a listing says so even of files that are gone."""
    shared = ports.settings.shared.artifacts
    return (Path(shared).expanduser().absolute() if shared else ports.data_dir / "artifacts") / version.location


def _as_json(ports: Ports, state: ModelState, versions: list[ModelVersion]) -> dict[str, object]:
    return {
        "model": state.key,
        "tenant": state.tenant,
        "name": state.model,
        "revision": state.revision,
        "champion": state.champion,
        "previous": state.previous,
        "public_key": str(ports.signing_key.with_name(ports.signing_key.name + ".pub")),
        "versions": [_version_as_json(ports, state, version) for version in versions],
    }


def _version_as_json(ports: Ports, state: ModelState, version: ModelVersion) -> dict[str, object]:
    """One version: `manifest` is the exact text that was signed, so that anybody can check the signature again.

    `params` is null where they were too large to travel with the version; `params_size_bytes` then says how large, and the run has them.
    """
    left_out_bytes = _left_out_bytes(ports, version)
    return {
        "version": version.version,
        "champion": version.version == state.champion,
        "package": version.package,
        "release": version.release,
        "label": _label(version),
        "build_id": version.build_id,
        "run": version.run,
        "attempt": version.attempt,
        "created_ms": version.created_ms,
        "params": None if left_out_bytes else msgspec.json.decode(version.params_json),
        **({"params_size_bytes": left_out_bytes} if left_out_bytes else {}),
        "metrics": version.metrics,
        "size_bytes": version.size_bytes,
        "location": str(_location(ports, version)),
        "manifest": version.artifact.manifest,
        "signature": version.artifact.signature,
        "key_id": version.artifact.key_id,
    }
