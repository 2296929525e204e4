"""What `import millstream` gives, costs and pulls in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import millstream
import msgspec
from millstream import testing

SDK = Path(__file__).parents[1]


def _fresh(code: str) -> str:
    """Run code in a new interpreter that may write bytecode, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([sys.executable, "-I", "-c", code], env=environment, check=True, capture_output=True, text=True).stdout.strip()


def test_all_names_exactly_what_the_package_shows() -> None:
    """`__all__` holds every public object of the package, and nothing that is missing."""
    shown = {n for n, v in vars(millstream).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)}

    assert set(millstream.__all__) == shown | {"__version__"}
    assert set(testing.__all__) <= set(vars(testing))


def test_the_version_is_that_of_the_distribution() -> None:
    """`__version__` and `pyproject.toml` say the same."""
    declared = re.search(r'^version = "(.+)"$', (SDK / "pyproject.toml").read_text(), re.MULTILINE)

    assert declared is not None
    assert millstream.__version__ == declared[1]


def test_importing_takes_less_than_50_ms(tmp_path: Path) -> None:
    """The best of ten fresh interpreters imports the package in under 50 ms of its own time (what else runs is not counted).

    They have what it depends on and nothing else: msgspec also imports typing_extensions, 15 ms, where other packages brought it.
    """
    (tmp_path / "msgspec").symlink_to(Path(msgspec.__file__).parent)
    code = (
        f"import sys; sys.path[:] = [{str(SDK / 'src')!r}, {str(tmp_path)!r}, *(p for p in sys.path if 'site-packages' not in p)];"
        "import time; begun = time.process_time(); import millstream; print(time.process_time() - begun);"
        "assert 'typing_extensions' not in sys.modules"
    )

    assert min(float(_fresh(code)) for _ in range(10)) < 0.050


def test_importing_pulls_in_nothing_but_the_standard_library_and_msgspec() -> None:
    """Every module that the import adds is the package's own, msgspec's, or of the standard library."""
    code = "import sys; before = set(sys.modules); import millstream, millstream.worker, millstream.testing, millstream.manifest;"
    added = _fresh(code + "print(*{name.partition('.')[0] for name in set(sys.modules) - before})").split()
    foreign = {name for name in added if name.lstrip("_") not in {n.lstrip("_") for n in sys.stdlib_module_names}}

    # typing_extensions is msgspec's own choice where it happens to be installed; -I hides nothing of site-packages.
    assert foreign - {"typing_extensions"} <= {"millstream", "msgspec"}


def test_importing_changes_nothing_in_the_process() -> None:
    """Standard output, the root logger and signal handlers are as they were."""
    code = (
        "import sys, logging, signal; out = sys.stdout; import millstream, millstream.testing;"
        "print(sys.stdout is out, logging.getLogger().handlers, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    )

    assert _fresh(code) == "True [] True"
