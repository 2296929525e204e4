"""Small packages for the tests of this room: their build backend is twenty lines of their own, so building them needs no index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

BACKEND = """
import pathlib, tomllib, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata += [f"Requires-Python: {project['requires-python']}"] if "requires-python" in project else []
    metadata += [f"Requires-Dist: {each}" for each in project.get("dependencies", [])]
    path = pathlib.Path(wheel_directory) / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for module in sorted(pathlib.Path("src").rglob("*.py")):
            archive.write(module, module.relative_to("src"))
        archive.writestr(f"{info}/METADATA", "\\n".join(metadata) + "\\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nGenerator: tiny\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{info}/RECORD", "")
    return path.name
"""

DOUBLE = '''
import millstream as ms

@ms.inference
def double(value: float) -> float:
    """Twice the value."""
    return value * 2
'''


def write_package(
    folder: Path,
    *,
    name: str = "tiny",
    version: str = "1.0.0",
    code: str = DOUBLE,
    dependencies: Sequence[str] = ("millstream-sdk",),
    requires_python: str = ">=3.11",
    settings: str = "",
    backend: str = BACKEND,
) -> Path:
    """Write a package of one module and return its folder."""
    module = folder / "src" / name / "__init__.py"
    module.parent.mkdir(parents=True, exist_ok=True)
    module.write_text(code, encoding="utf-8")
    (folder / "backend.py").write_text(backend, encoding="utf-8")
    (folder / "pyproject.toml").write_text(
        f"""
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "{name}"
version = "{version}"
requires-python = "{requires_python}"
dependencies = {list(dependencies)!r}

{settings}
""",
        encoding="utf-8",
    )
    return folder
