"""Tracebacks in an author's terms, from texts as the Pythons of releases write them."""

from __future__ import annotations

from pathlib import Path

from millstream_server.environments.tracebacks import tell

IMPORTERS = """  File "/usr/lib/python3.12/importlib/__init__.py", line 90, in import_module
    return _bootstrap._gcd_import(name[level:], package, level)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "<frozen importlib._bootstrap>", line 1387, in _gcd_import
  File "<frozen importlib._bootstrap_external>", line 995, in exec_module
"""
SENTENCE = "module shop.pipelines cannot be imported: {}, at __init__.py:90 in import_module"


def test_the_last_line_of_the_authors_own_code_is_named() -> None:
    """What a library that he calls does below it is in the traceback, but it is his line that he can change."""
    text = (
        f'Traceback (most recent call last):\n{IMPORTERS}  File "/x/shop/pipelines.py", line 3, in <module>\n    decimal.Decimal("a")\n'
        '  File "/usr/lib/python3.12/decimal.py", line 9, in Decimal\n    raise\nInvalidOperation: no\n'
    )

    told = tell(SENTENCE.format("InvalidOperation: no"), text, Path("/x"))

    assert told.sentence == "module shop.pipelines cannot be imported: InvalidOperation: no, at shop/pipelines.py:3"
    assert told.traceback.splitlines() == [
        "Traceback (most recent call last):",
        '  File "shop/pipelines.py", line 3, in <module>',
        '    decimal.Decimal("a")',
        '  File "/usr/lib/python3.12/decimal.py", line 9, in Decimal',
        "    raise",
        "InvalidOperation: no",
    ]
    assert told.mend == ""


def test_a_cause_keeps_its_own_traceback() -> None:
    """Both halves of a chain are shown, and the line named is that of the last one."""
    first = f'Traceback (most recent call last):\n{IMPORTERS}  File "/x/shop/a.py", line 1, in f\n    int("x")\nValueError: x\n'
    join = "\nThe above exception was the direct cause of the following exception:\n\n"
    second = 'Traceback (most recent call last):\n  File "/x/shop/pipelines.py", line 8, in <module>\n    f()\nKeyError: 1\n'

    told = tell(SENTENCE.format("KeyError: 1"), first + join + second)

    assert told.sentence.endswith("KeyError: 1, at /x/shop/pipelines.py:8")
    assert "The above exception was the direct cause" in told.traceback
    assert told.traceback.count("File ") == 2


def test_files_of_an_environment_are_named_without_its_folder() -> None:
    """It is one that is being made, and gone when the author reads this."""
    file = "/d/.tmp-1/lib/python3.12/site-packages/shop/pipelines.py"
    text = f'Traceback (most recent call last):\n  File "{file}", line 2, in <module>\n    x\nE\n'

    told = tell(SENTENCE.format("E"), text)

    assert told.sentence.endswith(": E, at shop/pipelines.py:2")
    assert '  File "shop/pipelines.py", line 2, in <module>' in told.traceback


def test_what_is_not_understood_is_left_as_it_is() -> None:
    """A sentence of another form, without a traceback, comes back unchanged."""
    assert tell("it ended", "").sentence == "it ended"
    assert tell(SENTENCE.format("MemoryError"), "").sentence == SENTENCE.format("MemoryError")
