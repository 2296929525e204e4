"""The kits that older versions left, each a folder named for its version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.iterdir() if (path / "expected.json").is_file())


class Kit:
    """What one version left; `data` is a copy that a test may change."""

    def __init__(self, version: str, data: Path) -> None:
        self.version = version
        self.data = data
        self.expected = json.loads((HERE / version / "expected.json").read_text())
        (self.sdk_wheel,) = (HERE / version).glob("millstream_sdk-*.whl")
        shutil.copytree(HERE / version / "data", data)
        (data / "signing-key").chmod(0o600)  # git keeps no such mode

    @property
    def release(self) -> dict[str, object]:
        """The one release of the kit, as `releases list` told it."""
        (release,) = self.expected["releases"]
        return release
