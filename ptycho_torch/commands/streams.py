"""Standard output and error that no encoding, closed pipe or full disk can break."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def lasting_streams() -> Iterator[Callable[[], str]]:
    """While a command runs, failing output does not stop it; yields a function that gives the failure, or an empty
    text.

    Characters that the stream's encoding lacks are written as escapes. What can't be written is dropped, so that a
    command whose output is cut off (`| head`, or a log on a full disk) still writes its results; a pipe that nobody
    reads any more is no loss. Each line is flushed, so that a file shows what has happened so far. Streams that another
    program has put in place are left alone.
    """
    before, files = (sys.stdout, sys.stderr), list[_Lasting]()
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = _lasting(sys.stdout, files)
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = _lasting(sys.stderr, files)
    try:
        yield lambda: next((file.failure for file in files if file.failure), "")
    finally:
        for now, old in zip((sys.stdout, sys.stderr), before, strict=True):
            if now is not old:
                now.flush()
        sys.stdout, sys.stderr = before


class _Lasting(io.FileIO):
    """A file that drops what can't be written, and keeps the reason."""

    failure = ""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            pass
        except OSError as error:
            self.failure = str(error.strerror)
        return memoryview(data).nbytes


def _lasting(stream: TextIO, files: list[_Lasting]) -> TextIO:
    try:
        stream.flush()
        files.append(_Lasting(stream.fileno(), "w", closefd=False))
    except (OSError, ValueError):  # closed, or no file at all
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(files[-1]), encoding=stream.encoding, errors="backslashreplace", line_buffering=True
    )
