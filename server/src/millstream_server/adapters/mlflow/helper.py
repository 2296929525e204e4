"""The process that writes to MLflow: `python -m millstream_server.adapters.mlflow.helper`, questions on its standard input.

Its standard output is the pipe of answers; what libraries print goes to standard error. It ends when its input ends, as it does when
the node is killed.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import BinaryIO

from millstream_server.adapters.mlflow.frames import LARGEST, LENGTH, Answer, Done, Look, Open, Question, Refused, decode_question, framed
from millstream_server.core.mirror import MirroredModel, MirroredRun

_NICE = 5
"""Below whatever answers callers."""


def main() -> int:
    """Answer questions until there are none."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.nice(_NICE)
    logging.disable(logging.WARNING)
    desk = _Desk()
    while (question := _read(sys.stdin.buffer)) is not None:
        answers.write(framed(desk.answer(question)))
        answers.flush()
    return 0


def _read(source: BinaryIO) -> Question | None:
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    if size > LARGEST:
        raise ValueError(f"a frame of {size} bytes, expected at most {LARGEST}")
    body = source.read(size)
    return decode_question(body) if len(body) == size else None


class _Desk:
    """Answers each question in turn; every failure becomes an answer."""

    def answer(self, question: Question) -> Answer:
        from millstream_server.adapters.mlflow.writing import Writer, says_never, told

        try:
            match question:
                case Open():
                    self._writer = Writer(question)
                    return Done()
                case MirroredRun():
                    self._writer.write_run(question)
                    return Done()
                case MirroredModel():
                    return Done(written=self._writer.write_model(question))
                case Look():
                    return Done(tuple(self._writer.moved()))
        except Exception as error:
            return Refused(told(error), says_never(error))


if __name__ == "__main__":
    sys.exit(main())
