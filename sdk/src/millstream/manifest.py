"""What `millstream build` asks of a package's code: `python -I -m millstream.manifest --modules a,b [--path DIR]`.

Prints one line of JSON, {"pipelines": [...], "seconds": s} and exit code 0, or {"error": {...}} and 1. What the modules print while
they are imported goes to standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

import msgspec

from millstream._failures import traceback_text
from millstream._manifest import claim_stdout, describe_pipeline
from millstream._release import ImportFailed, import_release
from millstream.errors import DeclarationError
from millstream.wire import WireError


def main(arguments: Sequence[str] | None = None) -> int:
    """Describe the pipelines of modules; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m millstream.manifest", description="Prints what a package's modules declare, as JSON.")
    parser.add_argument("--modules", required=True, help="names of modules, with commas between")
    parser.add_argument("--path", action="append", default=[], help="a folder to import from, before all others; may be repeated")
    options = parser.parse_args(arguments)
    sys.path[:0] = options.path
    real = claim_stdout()
    answer = describe([name.strip() for name in options.modules.split(",") if name.strip()])
    sys.stdout.flush()
    os.write(real, msgspec.json.encode(answer) + b"\n")
    return 1 if "error" in answer else 0


def describe(modules: Sequence[str]) -> dict[str, object]:
    """Import modules and describe their pipelines, or say why that cannot be done."""
    begun = time.perf_counter()
    try:
        _, pipelines = import_release(modules)
        specs = [describe_pipeline(pipeline) for pipeline in pipelines]
    except ImportFailed as failure:
        return {"error": failure.error}
    except DeclarationError as error:
        return {"error": WireError("bad_pipeline", str(error), detail=traceback_text(error))}
    if not specs:
        sentence = f"no pipeline is declared in {', '.join(modules)}; decorate a function with @ms.inference or @ms.training"
        return {"error": WireError("bad_pipeline", sentence)}
    return {"pipelines": specs, "seconds": round(time.perf_counter() - begun, 6)}


if __name__ == "__main__":
    sys.exit(main())
