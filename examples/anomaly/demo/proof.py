"""The proof of the models: every version, its lineage and its files, checked by a script that imports nothing of the server.

What is checked: `models list` and the broadcast topic `ModelCacheEvent` agree; every training that was answered left one
version; the champion is the version of the tenant's latest training; each version leads to its run, which succeeded under the
release and with the parameters of the request; the manifest is signed (Ed25519) by the data directory's key and names this
tenant, model, version, run and build; every file of the artifact has the signed size and SHA-256, and there is no other file.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
from collections import defaultdict
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from blackbox.command import Platform, rows_of
from blackbox.stream import record_value
from examples.anomaly.demo.checker import read_sent
from examples.anomaly.demo.judge import Sent

MODELS = "ModelCacheEvent"
MODEL = "anomaly"
Row = dict[str, object]


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The Ed25519 public key of a data directory, in PEM or as base64 of its 32 bytes."""
    text = path.read_bytes()
    key = load_pem_public_key(text) if b"-----BEGIN" in text else Ed25519PublicKey.from_public_bytes(base64.b64decode(text.split()[0]))
    if not isinstance(key, Ed25519PublicKey):
        raise TypeError(f"{path} holds no Ed25519 key")
    return key


def read_states(platform: Platform) -> dict[str, Row]:
    """The last state of each model on the broadcast topic, by tenant.model."""
    states = {}
    for record in platform.records(MODELS):
        if not record.get("tombstone"):
            state = record_value(record)
            states[f"{state['tenant']}.{state['model']}"] = state
    return states


def check_artifact(key: str, version: Row, public_key: Ed25519PublicKey) -> list[str]:
    """Check signature, identity and files of one version; returns what is wrong with it."""
    name = f"{key} v{version['version']}"
    text = str(version["manifest"])
    try:
        public_key.verify(base64.b64decode(str(version["signature"])), text.encode())
    except InvalidSignature:
        return [f"{name}: the signature is not by this data directory's key"]
    manifest = json.loads(text)
    faults = [
        f"{name}: the signed manifest says {part} {manifest[part]!r}, the version says {said!r}"
        for part in ("version", "run", "attempt", "package", "release", "build_id")
        if manifest[part] != (said := version[part])
    ]
    if f"{manifest['tenant']}.{manifest['model']}" != key:
        faults.append(f"{name}: the manifest was signed for {manifest['tenant']}.{manifest['model']}")
    folder = Path(str(version["location"]))
    found = {path.name: path for path in folder.iterdir()} if folder.is_dir() else {}
    for entry in manifest["files"]:
        path = found.pop(entry["name"], None)
        if path is None:
            faults.append(f"{name}: file {entry['name']} is missing in {folder}")
            continue
        data = path.read_bytes()
        if (len(data), hashlib.sha256(data).hexdigest()) != (entry["size_bytes"], entry["sha256"]):
            faults.append(f"{name}: file {entry['name']} differs from its signed hash")
    return faults + [f"{name}: file {extra} was not signed" for extra in found]


def check_lineage(version: Row, run: Row | None, training: Sent | None, name: str) -> list[str]:
    """Check that a version leads to a run that succeeded, and the run to a request with the same release and parameters."""
    if run is None or training is None:
        return [f"{name}: no {'run' if run is None else 'training request'} fits it"]
    said = {"state": run.get("state"), "release": run.get("release"), "build_id": run.get("build_id"), "version": run.get("model_version")}
    meant = {"state": "SUCCEEDED", "release": training.release, "build_id": version["build_id"], "version": version["version"]}
    faults = [f"{name}: its run says {part} {said[part]!r}, expected {meant[part]!r}" for part in said if said[part] != meant[part]]
    if str(version["release"]) != training.release:
        faults.append(f"{name}: trained by {version['release']}, the request was sent under {training.release}")
    if version["params"] != json.loads(training.params):
        faults.append(f"{name}: trained with {version['params']}, asked for {training.params}")
    return faults


def prove(platform: Platform, trainings: list[Sent]) -> dict[str, object]:
    """Check every model; returns versions, champions by tenant, and all faults."""
    faults: list[str] = []
    states = read_states(platform)
    listed = {str(row["model"]): row for row in rows_of(platform.ask("models", "list", "--json"))}
    runs = {str(row["run"]): row for row in rows_of(platform.ask("runs", "list", "--json", "--limit", str(len(trainings) + 1000)))}
    public_key = read_public_key(platform.data_dir / "signing-key.pub")
    asked: dict[str, list[Sent]] = defaultdict(list)
    for training in trainings:
        asked[f"{training.tenant}.{MODEL}"].append(training)
    champions: dict[str, Row] = {}
    count = 0
    for key, of_tenant in asked.items():
        state, shown = states.get(key), listed.get(key)
        if state is None or shown is None:
            faults.append(f"{key}: {'the broadcast topic' if state is None else 'models list'} does not have it")
            continue
        versions = rows_of(shown["versions"])
        count += len(versions)
        if [row["version"] for row in versions] != list(range(1, len(of_tenant) + 1)):
            faults.append(f"{key}: it has versions {[row['version'] for row in versions]}, {len(of_tenant)} trainings were asked for")
        if not shown.get("champion") == state["champion"] == len(of_tenant):
            said = f"{shown.get('champion')} in the list and {state['champion']} on the topic"
            faults.append(f"{key}: the champion is {said}, expected {len(of_tenant)}")
        for version, training in zip(versions, sorted(of_tenant, key=lambda one: one.sent_ms), strict=False):
            name = f"{key} v{version['version']}"
            faults += check_artifact(key, version, public_key)
            faults += check_lineage(version, runs.get(str(version["run"])), training, name)
            if version["version"] == state["champion"]:
                champions[training.tenant] = {"version": version["version"], "release": version["release"]}
    return {"versions": count, "champions": champions, "faults": faults}


def main() -> None:
    parser = argparse.ArgumentParser(prog="proof", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the platform's data directory")
    parser.add_argument("--trainings", type=Path, required=True, help="the acknowledged training requests, JSON lines")
    chosen = parser.parse_args()
    print(json.dumps(prove(Platform(chosen.data_dir), read_sent(chosen.trainings))))


if __name__ == "__main__":
    main()
