"""Standard output and error that no terminal, encoding or closed pipe can break."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def lasting_streams() -> Iterator[None]:
    """While a command runs, its words can't stop it.

    Characters that the stream's encoding lacks are written as escapes. What goes into a pipe that nobody reads any more
    is dropped, so that a command whose output is cut off (`| head`) still writes its results. Each line is flushed, so
    that a file shows what has happened so far. Streams that another program has put in place are left alone.
    """
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = _lasting(sys.stdout)
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = _lasting(sys.stderr)
    made = [now for now, old in zip((sys.stdout, sys.stderr), before, strict=True) if now is not old]
    try:
        yield
    finally:
        for stream in made:
            stream.flush()
        sys.stdout, sys.stderr = before


class _Lasting(io.FileIO):
    """A file that drops what can't be delivered because the reader has gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def _lasting(stream: TextIO) -> TextIO:
    try:
        stream.flush()
        number = stream.fileno()
    except (OSError, ValueError, AttributeError):  # closed, or no file at all
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Lasting(number, "w", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=True,
    )
