"""Models: versions, the shared state of one `tenant.model`, and the rules of its changes.

The store's row holds a `ModelState` and is the truth; `ModelCacheEvent` (compacted, key = tenant.model) carries it.
A version is served by the release that trained it. Lower revisions are ignored by whoever follows the topic.
A state names live versions only, so that it stays small however often a model is trained; the store keeps all of them.
"""

from __future__ import annotations

from math import isfinite

import msgspec

from millstream_server.core.names import model_key


class FileEntry(msgspec.Struct, frozen=True):
    """One flat file of an artifact: name without folders, size in bytes, SHA-256 in hex."""

    name: str
    size_bytes: int
    sha256: str


class ArtifactManifest(msgspec.Struct, frozen=True):
    """What is signed: whose model this is, who made it from what, and every file. `signed` bytes are its canonical JSON."""

    tenant: str
    model: str
    version: int
    run: str
    attempt: int
    package: str
    release: str
    build_id: str
    created_ms: int
    files: tuple[FileEntry, ...]


class SignedArtifact(msgspec.Struct, frozen=True):
    """`manifest` is the exact JSON text that was signed (Ed25519, base64 signature).

    `key_id` names the public key: the first 16 hex digits of the SHA-256 of its 32 raw bytes.
    """

    manifest: str
    signature: str
    key_id: str


class ModelVersion(msgspec.Struct, frozen=True):
    """One version: where it comes from, and its signed artifact at `location` (a path under the artifacts' root)."""

    version: int
    package: str
    release: str
    build_id: str
    run: str
    attempt: int
    location: str
    artifact: SignedArtifact
    created_ms: int
    metrics: dict[str, float] = {}
    params_json: str = "{}"
    size_bytes: int = 0
    held_back: str | msgspec.UnsetType = msgspec.UNSET
    """Why its gate did not let it be champion when it was trained; whoever promotes it does so all the same."""
    deleted_by: str | msgspec.UnsetType = msgspec.UNSET
    deleted_ms: int | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_deleted(self) -> bool:
        """Whether its files are gone for good: only the store's lineage names it still, so that its number is never given again."""
        return self.deleted_by is not msgspec.UNSET


class ModelState(msgspec.Struct, frozen=True):
    """All that nodes know of one tenant's model; `champion` 0 means none yet.

    `versions` are the live ones (`live_versions`), oldest first; `last_version` is the highest number ever given, live or not.
    `promoted_by` says who made the champion what it is: `run RUN` for a training, `USER@HOST` for a person. What is unset is not
    written, so that a state of version 0.1.0 is the same bytes still.
    """

    tenant: str
    model: str
    revision: int = 0
    champion: int = 0
    previous: int = 0
    versions: tuple[ModelVersion, ...] = ()
    last_version: int = 0
    promoted_by: str | msgspec.UnsetType = msgspec.UNSET
    promoted_ms: int | msgspec.UnsetType = msgspec.UNSET
    pinned: tuple[int, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def key(self) -> str:
        return model_key(self.tenant, self.model)

    def find(self, version: int) -> ModelVersion | None:
        return next((v for v in self.versions if v.version == version), None)

    @property
    def pins(self) -> tuple[int, ...]:
        """The pinned versions, in the order of their numbers."""
        return () if self.pinned is msgspec.UNSET else self.pinned

    @property
    def next_version(self) -> int:
        """The number of the version that is trained next; no number is given twice, even when its version is live no more."""
        return self.newest_version + 1

    @property
    def newest_version(self) -> int:
        return max(self.last_version, *(v.version for v in self.versions), 0)


def live_versions(state: ModelState) -> frozenset[int]:
    """The versions that nodes must be able to serve: what the state refers to (champion, previous champion, pinned ones)."""
    return frozenset({state.champion, state.previous, *state.pins} - {0})


def keep_live(state: ModelState) -> ModelState:
    """The same state, naming live versions only; the revision stays, because nothing changed for a caller."""
    live = live_versions(state)
    kept = tuple(sorted((v for v in state.versions if v.version in live), key=lambda v: v.version))
    return msgspec.structs.replace(state, versions=kept, last_version=state.newest_version)


def add_version(state: ModelState, version: ModelVersion) -> ModelState:
    """Add a trained version and make it champion; the champion before it becomes the previous one, older ones drop out.

    One that its gate held back changes nothing but the numbers: it is no live version, and stands in the lineage (the store writes it
    from `versions`, then keeps what is live). Metrics that are not finite are left out of the version, because the state travels as
    JSON; the run keeps them.
    """
    finite = {name: value for name, value in version.metrics.items() if isfinite(value)}
    added = msgspec.structs.replace(version, metrics=finite)
    if version.held_back:
        return msgspec.structs.replace(
            state, revision=state.revision + 1, versions=(*state.versions, added), last_version=max(state.newest_version, version.version)
        )
    return keep_live(
        msgspec.structs.replace(
            state,
            revision=state.revision + 1,
            champion=version.version,
            previous=state.champion,
            versions=(*state.versions, added),
            last_version=state.newest_version,
            promoted_by=f"run {version.run}",
            promoted_ms=version.created_ms,
        )
    )


encode_model = msgspec.json.Encoder().encode
decode_model = msgspec.json.Decoder(ModelState).decode
encode_artifact_manifest = msgspec.json.Encoder(order="deterministic").encode
decode_artifact_manifest = msgspec.json.Decoder(ArtifactManifest).decode
encode_version = msgspec.json.Encoder().encode
decode_version = msgspec.json.Decoder(ModelVersion).decode
