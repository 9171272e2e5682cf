"""Progress in a terminal and in a file, with a clock that the test turns."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest

from ptycho_torch.progress import ProgressLine, duration


@dataclass
class Sweep:
    sweep: int
    sweeps: int
    held_out: float | None


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log(io.StringIO):
    """A file that knows how much of it was flushed."""

    flushed = ""

    def flush(self) -> None:
        self.flushed = self.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _known_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")


def test_a_file_gets_a_flushed_line_now_and_then_and_after_the_last_sweep() -> None:
    log, clock = Log(), Clock()
    with ProgressLine(stream=log, plain_seconds=10, clock=clock) as progress:
        for sweep in range(1, 9):
            clock.now += 4
            progress.on_sweep(Sweep(sweep, 8, 1 / sweep))
            assert log.flushed == log.getvalue()
    assert log.getvalue().splitlines() == [
        "sweep 3/8  held-out misfit 0.33333 per pixel  at most 20 s left",
        "sweep 6/8  held-out misfit 0.16667 per pixel  at most 8 s left",
        "sweep 8/8  held-out misfit 0.125 per pixel",
    ]


def test_what_begins_anew_is_timed_anew() -> None:
    log, clock = Log(), Clock()
    progress = ProgressLine(stream=log, plain_seconds=0, clock=clock)
    progress.step("probe search", 0, 2)
    clock.now += 100
    progress.step("probe search", 1, 2)
    progress.say("the probe is found")
    clock.now += 1
    progress.on_sweep(Sweep(1, 3, None))
    progress.on_sweep(Sweep(1, 3, float("nan")))
    assert log.getvalue().splitlines() == [
        "probe search 0/2",
        "probe search 1/2  about 1 min 40 s left",
        "the probe is found",
        "sweep 1/3  at most 2 s left",
        "sweep 1/3  at most 2 s left",
    ]


def test_a_run_that_goes_on_has_no_estimate_before_its_second_step() -> None:
    log, clock = Log(), Clock()
    progress = ProgressLine(stream=log, plain_seconds=0, clock=clock)
    for step in (57, 58):
        clock.now += 3
        progress.step("training step", step, 60, "loss 1.0")
    assert log.getvalue().splitlines() == [
        "training step 57/60  loss 1.0",
        "training step 58/60  loss 1.0  about 6 s left",
    ]


def test_a_terminal_has_one_bar_that_is_gone_at_the_end_and_lines_that_stay() -> None:
    terminal, clock = Terminal(), Clock()
    with ProgressLine(stream=terminal, clock=clock) as progress:
        for sweep in range(1, 4):
            clock.now += 4
            progress.on_sweep(Sweep(sweep, 8, 0.5))
        progress.say("[the network reconstructs again]")
        progress.on_sweep(Sweep(4, 8, 0.25))
    text = terminal.getvalue()
    assert "sweep 4/8" in text and "held-out misfit 0.25 per pixel  at most 12 s left" in text
    assert "[the network reconstructs again]\n" in text
    assert text.endswith("\x1b[1A\x1b[2K")  # up to the bar's line, which is erased


def test_the_bar_is_gone_when_something_fails() -> None:
    terminal = Terminal()

    def fail() -> None:
        with ProgressLine(stream=terminal) as progress:
            progress.step("sweep", 1, 2)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert terminal.getvalue().endswith("\x1b[1A\x1b[2K")


def test_a_terminal_that_can_not_move_its_cursor_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    ProgressLine(stream=terminal).step("sweep", 2, 2)
    assert terminal.getvalue() == "sweep 2/2\n"


def test_quiet_says_nothing() -> None:
    for stream in (Terminal(), Log()):
        with ProgressLine(quiet=True, stream=stream) as progress:
            progress.say("hello")
            progress.on_sweep(Sweep(8, 8, 0.5))
        assert stream.getvalue() == ""


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599.7, "1 h 0 min"),
        (11400, "3 h 10 min"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
