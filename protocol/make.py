"""Writes the JSON Schemas of what crosses topics, from the structs that encode and decode them.

python protocol/make.py            write protocol/*.schema.json
python protocol/make.py --check    exit 1 when a file differs from what the code says
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec
from millstream_server.core.model import ModelState
from millstream_server.core.release import Manifest, PackageState
from millstream_server.core.request import Envelope
from millstream_server.core.result import Result

HERE = Path(__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def _request() -> type:
    """The envelope as a caller sees it: `params` is an object, which this side happens to leave as bytes."""
    fields = [(f.name, dict[str, object], {}) if f.name == "params" else _field(f) for f in msgspec.structs.fields(Envelope)]
    return msgspec.defstruct("Request", fields, forbid_unknown_fields=True)


def _field(field: msgspec.structs.FieldInfo) -> tuple[str, object] | tuple[str, object, object]:
    return (field.name, field.type) if field.required else (field.name, field.type, field.default)


MESSAGES: dict[str, tuple[type, str]] = {
    "request": (_request(), "A request on ml.pipeline.input, in plain JSON. Source of the rules: millstream_server.core.request."),
    "result": (Result, "The one result of a request, on ml.pipeline.output or the reply topic."),
    "ModelCacheEvent": (ModelState, "The state of one tenant.model on the compacted topic ModelCacheEvent; lower revisions are ignored."),
    "ml.release": (PackageState, "The state of one package on the compacted topic ml.release; lower revisions are ignored."),
    "manifest": (Manifest, "millstream/manifest.json in the dist-info of a release's wheel."),
}


def schema(title: str, struct: type, description: str) -> str:
    """One schema as text, definitions inside."""
    (root,), components = msgspec.json.schema_components([struct], schema_hook=_raw, ref_template="#/$defs/{name}")
    document = {"$schema": DIALECT, "title": title, "description": description, **root, "$defs": components}
    return json.dumps(document, indent=2, sort_keys=False) + "\n"


def _raw(kind: type) -> dict[str, object]:
    """`msgspec.Raw` is any JSON value that this side leaves undecoded."""
    if kind in (msgspec.Raw, object):
        return {"description": "any JSON value"}
    raise NotImplementedError(kind)


def main() -> int:
    stale = []
    for title, (struct, description) in MESSAGES.items():
        path, text = HERE / f"{title}.schema.json", schema(title, struct, description)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(f"differs from the code: {', '.join(stale)}; mend: python protocol/make.py", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
