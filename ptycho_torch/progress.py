"""Progress of a long computation: a bar in a terminal, lines at intervals in a file."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

PLAIN_SECONDS = 10.0
"""Seconds between progress lines where there is no terminal."""


class Sweep(Protocol):
    """The progress of a refinement after a sweep."""

    @property
    def sweep(self) -> int: ...
    @property
    def sweeps(self) -> int: ...
    @property
    def held_out(self) -> float | None: ...


class ProgressLine:
    """Shows how far a computation is and how long it still takes; nothing at all when `quiet`.

    In a terminal a bar is kept up to date below other lines; elsewhere a line is written every `plain_seconds` and
    after the last step, and flushed, so that a log file is up to date. Use it as a context: it removes the bar
    at the end, also when something fails.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        stream: TextIO | None = None,
        plain_seconds: float = PLAIN_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._quiet, self._given_stream = quiet, stream
        self._plain_seconds, self._clock = plain_seconds, clock
        self._what, self._first, self._done = "", 0, 0
        self._begin = self._spoken = self._last = clock()
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def say(self, line: str) -> None:
        """A line that stays, above the bar where there is one."""
        if self._quiet:
            return
        self._last = self._clock()
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)

    def step(self, what: str, done: int, total: int, state: str = "", *, at_most: bool = False) -> None:
        """`done` of `total` steps of `what` are finished, and where it stands; `at_most`: it may end before all are."""
        if self._quiet:
            return
        now = self._clock()
        if what != self._what or done < self._done:  # the first step began at the last output
            self.close()
            self._what, self._first = what, 0 if done <= 1 else done
            self._begin = self._spoken = self._last if done == 1 else now
        self._done, self._last = done, now
        state = "  ".join(filter(None, (state, self._left(now, done, total, at_most=at_most))))
        if self._is_terminal():
            self._draw(what, done, total, state)
        elif now - self._spoken >= self._plain_seconds or done >= total:
            self._spoken = now
            print(f"{what} {done}/{total}  {state}".rstrip(), file=self._stream, flush=True)

    def on_sweep(self, progress: Sweep) -> None:
        """`step`, as the callback of a refinement."""
        held_out = progress.held_out
        known = held_out is not None and math.isfinite(held_out)
        state = f"held-out misfit {held_out:.5g} per pixel" if known else ""
        self.step("sweep", progress.sweep, progress.sweeps, state, at_most=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @property
    def _stream(self) -> TextIO:
        return self._given_stream or sys.stdout

    def _is_terminal(self) -> bool:
        return self._stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")

    def _left(self, now: float, done: int, total: int, *, at_most: bool) -> str:
        if done <= self._first or done >= total:
            return ""
        seconds = (now - self._begin) / (done - self._first) * (total - done)
        return f"{'at most' if at_most else 'about'} {duration(seconds)} left"

    def _draw(self, what: str, done: int, total: int, state: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskID, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}", markup=False))
            self._bar = Progress(*columns, console=Console(file=self._given_stream), transient=True)
            self._bar.start()
            self._task: TaskID = self._bar.add_task(what, total=total, state="")
        self._bar.update(self._task, completed=done, total=total, description=f"{what} {done}/{total}", state=state)


def duration(seconds: float) -> str:
    """A time in at most two units: `8 s`, `2 min 5 s`, `3 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
