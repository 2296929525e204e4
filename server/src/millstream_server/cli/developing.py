"""The author's side of `millstream dev`: watches the package's files, releases what was saved, and tells what came of it.

Runs in a thread of the node's process, with ports of its own, as any other command on the data directory would. A second thread
listens to the log of node and workers, and to results. Both end when the node does.
"""

from __future__ import annotations

import shlex
import tempfile
import threading
import time
from pathlib import Path

import msgspec

from millstream_server import app
from millstream_server.cli import deploy, following
from millstream_server.cli.listening import Listening, Question
from millstream_server.cli.main import as_told, print_error
from millstream_server.cli.printing import LivePhases
from millstream_server.config import Settings
from millstream_server.core.errors import MillstreamError
from millstream_server.core.logbook import plain
from millstream_server.core.model import ModelState, ModelVersion
from millstream_server.core.names import DEFAULT_TENANT
from millstream_server.core.release import PipelineSpec, Release, fail_deploy
from millstream_server.core.routing import invocation
from millstream_server.core.store import Store
from millstream_server.environments.build import Built, build_package, read_package
from millstream_server.environments.children import Cancelled
from millstream_server.environments.development import Seen, changed, dependencies_of, done_with, look, next_version, saved_s
from millstream_server.environments.places import in_folder

__all__ = ["Developing", "Question", "prepare"]

LOOK_S = 0.15
"""Between two looks at the files; of a large folder longer, so that looking takes at most a tenth of the time."""
SETTLE_S = 0.05
"""An editor may save several files, or one in several steps: what has not changed for this long is whole."""
POLL_S = 0.03
FOLLOWED_S = 3.0
"""How long to wait for the node's word that it routes to a release that the store calls current; it says so within a second."""
MOST_MODELS = 5
MOST_PARAMS = 200
"""Characters of parameters that a command to train again may hold; of longer ones only their names are told."""


def prepare(settings: Settings) -> None:
    """Make the data directory, and let git ignore it.

    Raises:
        Unavailable: data_dir_unusable.
    """
    app.open_ports(settings, create=True).close()
    ignore = settings.data_dir / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")


class Developing:
    """One author at work. `start` is called once the node accepts requests."""

    def __init__(self, settings: Settings, folder: Path, question: Question | None, stop: threading.Event) -> None:
        self._settings = settings
        self._folder = folder
        self._stop = stop
        self._live = LivePhases()
        self._listening = Listening(settings, self._live, question, stop)
        self._thread = threading.Thread(target=self._run, name="author")
        self._lock: tuple[tuple[bytes, ...], str] = ((), "")
        self._good: Release | None = None
        self._told: set[str] = set()

    def start(self) -> None:
        self._listening.start()
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for both threads, those that were started."""
        for thread in (self._thread, self._listening.thread):
            if thread.ident is not None:
                thread.join(timeout_s)
        self._live.drop()

    def _run(self) -> None:
        self._live.say(f"data directory {self._settings.data_dir} (git ignores it); watches {self._folder}; Ctrl-C ends it")
        ports = app.open_ports(self._settings)
        try:
            self._watch(ports)
        finally:
            ports.close()

    def _watch(self, ports: app.Ports) -> None:
        """Release what is there, and again whenever it has changed."""
        seen = self._look()
        self._release(ports, 0.0)
        wait_s = LOOK_S
        while not self._stop.wait(wait_s):
            began_s = time.monotonic()
            now = self._look()
            wait_s = max(LOOK_S, 10 * (time.monotonic() - began_s))
            if now == seen:
                continue
            while not self._stop.wait(SETTLE_S) and (later := self._look()) != now:
                now = later
            paths = changed(seen, now)
            saved = saved_s(paths, now)
            seen = now
            names = ", ".join(str(Path(path).relative_to(self._folder)) for path in paths[:3])
            self._live.say(f"\nsaved {names}" + (f" and {len(paths) - 3} more" if len(paths) > 3 else ""))
            self._release(ports, saved if 0 <= time.time() - saved < 60 else time.time())

    def _look(self) -> Seen:
        return look(self._folder, less=self._settings.data_dir)

    # --- one release --------------------------------------------------------------------------------------------------

    def _release(self, ports: app.Ports, saved: float) -> None:
        """Build, publish, deploy; what goes wrong is told, and the release before serves on."""
        began_s = time.time()
        try:
            with tempfile.TemporaryDirectory(prefix="millstream-dev-") as out:
                built = self._build(ports, Path(out))
                ports.index.publish(built.wheel)
            self._deploy(ports, built, saved or began_s, "the save" if saved else "the start")
        except Cancelled:
            self._live.drop()
        except Exception as error:  # also a full disk, or a file that goes while it is read: the author's next save tries again
            self._live.drop()
            self._tell_failure(as_told(error))

    def _build(self, ports: app.Ports, out: Path) -> Built:
        """Build the next development release."""

        package = read_package(self._folder).name

        def version_of(version: str) -> str:
            return next_version(version, (entry.version for entry in ports.index.entries(package)))

        depends = dependencies_of(self._folder)
        lock = self._lock[1] if self._lock[0] == depends else ""
        built = build_package(
            self._folder,
            out,
            index_arguments=app.index_arguments(self._settings),
            on_phase=self._live.begin,
            version_of=version_of,
            lock_text=lock,
            cancel=self._stop,
        )
        self._lock = (depends, built.lock)
        self._live.end()
        return built

    def _deploy(self, ports: app.Ports, built: Built, since: float, what: str) -> None:
        manifest = built.manifest
        self._give_up_older(ports.store, manifest.package)
        wanted = deploy.begin(ports, deploy.Target(manifest.package, manifest.version), allow_breaking=True)
        if wanted is None:
            return
        self._listening.expect(wanted, since, what)
        watch = following.Watch(self._live, wanted)
        while not watch.look(ports.store.package(manifest.package), following.said_by_nodes(ports.store, wanted)):
            if self._stop.wait(POLL_S):
                return
            self._live.tick()
        until_s = time.monotonic() + FOLLOWED_S
        while time.monotonic() < until_s and not self._routed(ports, wanted) and not self._stop.wait(POLL_S):
            pass
        self._good = wanted
        self._live.say(f"{wanted.label} answers, {time.time() - since:.1f} s after {what} ({_seconds(built)})")
        self._listening.released(wanted)
        self._tell_how_to_ask(wanted)
        self._tell_models(ports, wanted)
        self._withdraw_older(ports, wanted)

    @staticmethod
    def _give_up_older(store: Store, package: str) -> None:
        """A deployment that was under way when an earlier `dev` was ended stands in the way of the next."""
        while (state := store.package(package)) is not None and state.deploying is not None:
            store.save_package(fail_deploy(state, "a newer save takes its place"))

    @staticmethod
    def _withdraw_older(ports: app.Ports, wanted: Release) -> None:
        """Every save makes a wheel; those of releases that neither run nor trained a model that is still there are removed."""
        package = wanted.manifest.package
        state = ports.store.package(package)
        needed = [each.version for each in state.releases if each.status in ("CURRENT", "DEPLOYING", "KEPT")] if state is not None else []
        needed += [each.release for _, each in ports.store.model_versions() if each.package == package and not each.is_deleted]
        published = [entry.version for entry in ports.index.entries(package)]
        app.withdraw(ports, package, done_with(wanted.version, published, needed))

    @staticmethod
    def _routed(ports: app.Ports, wanted: Release) -> bool:
        """Whether the node knows that the release is current: a request that is sent now goes there."""
        said = following.said_by_nodes(ports.store, wanted).values()
        return any(row is not None and row.release == "CURRENT" for row in said)

    # --- words --------------------------------------------------------------------------------------------------------

    def _tell_failure(self, error: MillstreamError) -> None:
        message = in_folder(error.message, self._folder)
        print_error(error.label, message, error.where, error.mend)
        serves = f"{self._good.label} serves on" if self._good is not None else "nothing is released yet"
        self._live.say(f"{serves}; correct it and save")

    def _tell_how_to_ask(self, release: Release) -> None:
        """One command for each pipeline, where it is new or asks for other parameters."""
        lines = [self._pasted(invocation(spec, DEFAULT_TENANT)) for spec in release.manifest.pipelines]
        new = [line for line in lines if line not in self._told]
        if new:
            self._live.say("from another terminal:")
            for line in new:
                self._live.say(f"  {line}")
        self._told |= set(new)

    def _tell_models(self, ports: app.Ports, release: Release) -> None:
        """Which models the release before answers for, and how each comes to the new one."""
        others = [
            (state, version)
            for state in ports.store.models()
            if (version := state.find(state.champion)) is not None
            and version.package == release.manifest.package
            and version.build_id != release.build_id
        ]
        for state, version in others[:MOST_MODELS]:
            self._live.say(f"{state.key} v{version.version} is answered by {version.package}=={version.release}, which trained it;")
            self._live.say(f"  to have the new code answer: {self._again(ports, release, state, version)}")
        if len(others) > MOST_MODELS:
            mine = self._pasted("millstream models list")
            self._live.say(f"and {len(others) - MOST_MODELS} more models of earlier releases: {mine}")

    def _again(self, ports: app.Ports, release: Release, state: ModelState, version: ModelVersion) -> str:
        """The command that trains a model again, with the parameters of its last training."""
        trains = {spec.name: spec for spec in release.manifest.pipelines if spec.kind == "training" and spec.model == state.model}
        if not trains:
            return f"{release.label} trains no model {state.model}"
        run = ports.store.run(version.run)
        params = run.params.decode("utf-8", "replace") if run is not None and run.pipeline in trains else ""
        if run is None or not params or len(params) > MOST_PARAMS:
            spec: PipelineSpec = next(iter(trains.values()))
            return self._pasted(invocation(spec, state.tenant))
        given = f" --params {shlex.quote(params)}" if msgspec.json.decode(params) else ""
        return self._pasted(f"millstream invoke {run.pipeline} --tenant {state.tenant}{given}")

    def _pasted(self, command: str) -> str:
        """A command that reaches this platform from any folder."""
        return plain(f"{command} --data-dir {shlex.quote(str(self._settings.data_dir))}")


def _seconds(built: Built) -> str:
    return "build " + ", ".join(f"{name} {took:.1f} s" for name, took in built.seconds.items())
