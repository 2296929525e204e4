"""What a result says can be done about it, by its code and by what the pipeline's exception is called."""

from __future__ import annotations

import pytest
from millstream_server.node.answers import mend_of


@pytest.mark.parametrize(
    ("message", "setting"),
    [
        ("FileNotFoundError: [Errno 2] No such file or directory: 'data.csv', at pipelines.py:9 in train", "worker.readable_paths"),
        ("gaierror: [Errno -3] Temporary failure in name resolution, at pipelines.py:9 in train", "worker.network"),
        ("ConnectionRefusedError: [Errno 111] Connection refused", "worker.network"),
    ],
)
def test_an_exception_that_the_sandbox_may_have_caused_names_the_setting(message: str, setting: str) -> None:
    """The author cannot know that the file or the address is kept from the worker."""
    mend = mend_of("pipeline_raised", "r1", message=message)

    assert mend.startswith("read the traceback: millstream logs --request r1; ")
    assert setting in mend


def test_other_exceptions_name_no_setting() -> None:
    """Nor does a code that is not the pipeline's own exception."""
    assert mend_of("pipeline_raised", "r1", message="ValueError: FileNotFoundError") == "read the traceback: millstream logs --request r1"
    assert "worker." not in mend_of("bad_parameters", "r1", path="$.x", message="FileNotFoundError: x")
