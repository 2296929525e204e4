"""`init`, `build`, `publish`: the author's three steps before a deployment."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from millstream_server.cli.frame import Command, Invocation, common, pass_invocation

if TYPE_CHECKING:
    from millstream_server.environments.build import Built
    from millstream_server.environments.phases import OnPhase


@click.command(
    cls=Command,
    examples=[
        ("millstream init anomaly", "a package of four pipelines, with tests"),
        ("cd anomaly && millstream build && millstream publish && millstream deploy anomaly==0.1.0", ""),
    ],
)
@click.argument("name")
@common
@pass_invocation
def init(invocation: Invocation, name: str) -> None:
    """Start a package that builds, tests, deploys and answers as it is.

    Writes it into the new folder NAME. It teaches the three shapes of inference: one row, a list of rows, columns.
    """
    from millstream_server.environments.init import create_package

    folder = Path.cwd() / name
    for path in create_package(folder, name):
        click.echo(str(_near_path(folder / path)))
    click.echo(f"next: cd {shlex.quote(name)}; README.md says the five commands from here to an answer", err=True)


@click.command(
    cls=Command,
    examples=[
        ("millstream build", "the package in this folder, into dist/"),
        ("millstream build ./anomaly --out ./wheels", ""),
        ("millstream build ./wine", "a folder with an MLproject file: its entry points become trainings"),
    ],
)
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Where the wheel goes. [default: DIR/dist]")
@common
@pass_invocation
def build(invocation: Invocation, folder: Path, out: Path | None) -> int:
    """Build a package into a wheel that carries its lock and its manifest.

    Prints the path of the wheel. Resolves the dependencies into hashes, builds the wheel with the package's own backend, installs
    both in an environment of their own, imports the package and reads its pipelines from its type hints. Warns of an inference whose
    model no training of the package makes. A folder with an MLproject file of MLflow is made a package first: each entry point is a
    training, and what it logs is the model. Ctrl-C leaves nothing unfinished behind.
    """
    from millstream_server import app
    from millstream_server.cli.printing import LivePhases, Ticking, caution
    from millstream_server.core.model_names import never_trained

    live = LivePhases()
    arguments = app.index_arguments(invocation.settings(), releases=True)
    ticking = Ticking(live)
    try:
        with ticking:
            built = _build(folder, out or folder / "dist", arguments, live.begin)
    except KeyboardInterrupt:
        live.drop()
        click.echo(f"nothing was built and nothing is left over; begin again: millstream build {shlex.quote(str(folder))}", err=True)
        return 130
    except Exception:
        live.drop()
        raise
    live.end()
    manifest = built.manifest
    pipelines = ", ".join(f"{pipeline.name} ({pipeline.kind})" for pipeline in manifest.pipelines) or "no pipelines"
    click.echo(f"built {manifest.package}=={manifest.version}, build {manifest.build_id}, Python {manifest.python}: {pipelines}", err=True)
    for each in never_trained(manifest):
        caution(each.message, each.mend)
    click.echo(f"next: millstream publish {shlex.quote(str(_near_path(built.wheel)))}", err=True)
    click.echo(str(built.wheel))
    return 0


@click.command(
    cls=Command,
    examples=[
        ("millstream publish", "the newest wheel in ./dist"),
        ("millstream publish dist/anomaly-2.0.0-py3-none-any.whl", ""),
        ("millstream publish ./anomaly", "the newest wheel in ./anomaly/dist"),
    ],
)
@click.argument("wheel", metavar="[WHEEL|DIR]", type=click.Path(path_type=Path), default=".")
@common
@pass_invocation
def publish(invocation: Invocation, wheel: Path) -> None:
    """Put a built wheel on the release index.

    A published version never changes; the same wheel again is no error.
    """
    from millstream_server import app
    from millstream_server.environments.releases import read_manifest

    path = _wheel_of(wheel)
    manifest = read_manifest(path)
    settings = invocation.settings()
    ports = app.open_ports(settings, create=True)  # publishing needs no node, and may well come before the first one
    try:
        new = ports.index.publish(path)
    finally:
        ports.close()
    label = f"{manifest.package}=={manifest.version}"
    click.echo(f"{label} is published{'' if new else ' already, with these very bytes'}; next: millstream deploy {label}", err=True)


@click.command(
    cls=Command,
    examples=[
        ("millstream wheelhouse anomaly==1.0.0 ./wheels", "then, where no index is: MILLSTREAM_WHEELHOUSE=./wheels"),
        ("millstream wheelhouse anomaly==1.0.0 ./wheels --platform aarch64-unknown-linux-gnu", "for other machines"),
    ],
)
@click.argument("release", metavar="NAME==VERSION")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--platform", metavar="NAME", default="", help="Of the machines that will install, as uv names it. [default: this one's]")
@common
@pass_invocation
def wheelhouse(invocation: Invocation, release: str, folder: Path, platform: str) -> int:
    """Gather every wheel of a published release into DIR, to install it where no index is.

    DIR gets the release's own wheel, the SDK's, and the wheels that its lock names, for one platform; every one has a hash that the lock
    names. DIR may hold several releases: what is there is kept. Prints the path of the release's wheel. Where no index is, nodes get
    environments.wheelhouse (MILLSTREAM_WHEELHOUSE), and the release is published from DIR and deployed as anywhere.
    """
    from millstream_server import app
    from millstream_server.cli.deploy import Target
    from millstream_server.cli.printing import LivePhases, Ticking
    from millstream_server.environments.releases import read_release
    from millstream_server.environments.wheelhouse import make_wheelhouse

    target = Target.parse(release)
    if not target.version:
        raise click.UsageError(f"{release} names no version, expected NAME==VERSION")
    live = LivePhases()
    settings = invocation.settings()
    ports = app.open_ports(settings, create=True)  # gathering needs no node
    try:
        wanted = read_release(ports.index, target.package, target.version)
        wheel, _ = ports.index.fetch(target.package, target.version)
        arguments = [*ports.index.install_arguments(), *app.index_arguments(settings)]
        with Ticking(live):
            made = make_wheelhouse(
                wanted, wheel, folder, app.download(settings), index_arguments=arguments, platform=platform, on_phase=live.begin
            )
    except KeyboardInterrupt:
        live.drop()
        click.echo(f"{folder} holds what came before; go on: millstream wheelhouse {release} {shlex.quote(str(folder))}", err=True)
        return 130
    except BaseException:
        live.drop()
        raise
    finally:
        ports.close()
    live.end()
    click.echo(f"{wanted.label}: {len(made.wheels)} wheels in {folder}, {len(made.new)} of them new", err=True)
    shown = shlex.quote(str(folder))
    there = f"millstream publish {shlex.quote(str(folder / wanted.wheel))} && millstream deploy {wanted.label}"
    click.echo(
        f"next, where no index is and {shown} was copied to: start the node with MILLSTREAM_WHEELHOUSE={shown}, then {there}", err=True
    )
    click.echo(str(folder / wanted.wheel))
    return 0


def _build(folder: Path, out: Path, index_arguments: Sequence[str], on_phase: OnPhase) -> Built:
    """Build the package in a folder, or the one that its MLproject file makes."""
    from millstream_server.environments.build import build_package
    from millstream_server.environments.mlflow_models.project import is_project, read_project, write_package

    if not is_project(folder):
        return build_package(folder, out, index_arguments=index_arguments, on_phase=on_phase)
    project = read_project(folder)
    with tempfile.TemporaryDirectory(prefix="millstream-mlproject-") as scratch:
        write_package(project, folder, Path(scratch))
        return build_package(Path(scratch), out.absolute(), index_arguments=index_arguments, on_phase=on_phase)


def _wheel_of(path: Path) -> Path:
    """The wheel that is meant: a file, or the newest in a folder or its dist/.

    Raises:
        Invalid: bad_input, there is none.
    """
    from millstream_server.core.errors import Invalid

    if path.is_file():
        return path
    wheels = [wheel for folder in (path / "dist", path) for wheel in folder.glob("*.whl")]
    if not wheels:
        what = f"no wheel is in {path} or in its folder dist" if path.is_dir() else f"there is no wheel {path}"
        folder = path if path.is_dir() else path.parent
        package = folder.parent if folder.name == "dist" else folder
        mend = f"millstream build {shlex.quote(str(package))}"
        raise Invalid("bad_input", what, where=str(path.absolute()), mend=mend)
    return max(wheels, key=lambda wheel: (wheel.stat().st_mtime_ns, wheel.name))


def _near_path(path: Path) -> Path:
    """The path as the user would type it from here."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
