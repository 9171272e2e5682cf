"""The commands: settings become plain values, one function is called, results are written and printed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_typed: ContextVar[tuple[str, ...] | None] = ContextVar("command", default=None)


@contextmanager
def command_typed(words: Sequence[str]) -> Iterator[None]:
    """Keeps the words of the command line, without the program's name, while the command runs."""
    token = _typed.set(tuple(words))
    try:
        yield
    finally:
        _typed.reset(token)


def command_line() -> str:
    """The command that runs, as a line to type in a shell from the same folder; empty where none was given.

    However it was started (`ptycho-torch`, `python -m ptycho_torch.inference`, `main([...])`), the line begins with
    `ptycho-torch`, and words are quoted where a shell needs it.
    """
    words = _typed.get()
    return "" if words is None else shlex.join(["ptycho-torch", *words])
