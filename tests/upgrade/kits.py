"""The kits that older versions left, each a folder named for its version, and for its state where one version has several."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

HERE = Path(__file__).parent
KITS = sorted(path.name for path in HERE.iterdir() if (path / "expected.json").is_file())


class Kit:
    """What one version left; `data` is a copy that a test may change."""

    def __init__(self, name: str, data: Path) -> None:
        self.name = name
        self.version = name.partition("-")[0]
        self.data = data
        self.expected = json.loads((HERE / name / "expected.json").read_text())
        (self.sdk_wheel,) = (HERE / name).glob("millstream_sdk-*.whl")
        shutil.copytree(HERE / name / "data", data)
        (data / "signing-key").chmod(0o600)  # git keeps no such mode

    @property
    def release(self) -> dict[str, object]:
        """The one release of the kit, as `releases list` told it."""
        (release,) = self.expected["releases"]
        return release

    @property
    def unanswered(self) -> dict[str, object]:
        """By request that the version left unanswered, what it is owed: a result, `ok`, or an error code."""
        return dict(self.expected.get("unanswered", {}))
