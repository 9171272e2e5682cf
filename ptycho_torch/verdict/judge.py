"""A verdict from figures: good, doubtful or bad, with reasons in sentences.

The thresholds are those that separate right from wrong scans in `benchmarks/verdict.py`; docs/verdict.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ptycho_torch.types import Reason, Status, Verdict
from ptycho_torch.verdict.causes import Cause
from ptycho_torch.verdict.figures import Figures


@dataclass(frozen=True)
class Thresholds:
    """Where good ends and where bad begins."""

    explained: tuple[float, float] = (0.92, 0.5)
    """Of the gain in likelihood over the mean pattern that right predictions would have on unused pixels. Right
    0.95–1.09, down to 0.38 where fitted noise is large; flips, swaps, lag, noise −1.5–0.9."""
    errors: float = 1.5
    """Standard errors of that share by photon noise which are granted."""
    unexplained: tuple[float, float] = (0.02, 0.1)
    """Of the patterns' differences, beyond photon noise. Right 0–0.07, flips, lag, jitter 0.1–1."""
    unexplained_errors: float = 2.5
    """Standard errors of that share by photon noise which are granted: right scans have up to 2.3."""
    nothing: float = 1.005
    """Misfit of the mean pattern over that of photon noise, below which the patterns show no object …"""
    significant: float = 5.0
    """… unless unused pixels are explained better than by the mean pattern, by so many standard errors. By so many
    worse, noise was reconstructed: 12 and more; an empty field of view 0–2."""
    below_noise: float = 0.8
    """R over that of photon noise below which the patterns are no photon counts, or too few. Right 0.9–1.02."""
    determined: float = 2.0
    """Patterns that illuminate an object pixel from which on they aren't too few …"""
    fewest: int = 16
    """… and patterns at all."""
    patterns_per_pixel: float = 0.4
    """Patterns that illuminate an object pixel: with 0.45–0.76, objects correlate to 0.9–1 with the truth."""


THRESHOLDS = Thresholds()
CONFIRMED = Reason(
    "no other orientation, lag, unit or centre explains the patterns as well as the given ones: the probe is rough, "
    "the detector adds noise to that of photons, or the experiment had more to it than the model"
)
FITTED_NOISE = "no other orientation, lag, unit or centre explains more: the rest is photon noise in the object"


def judged(
    figures: Figures,
    *,
    causes: tuple[Reason, ...] = (),
    is_confirmed: bool = False,
    thresholds: Thresholds = THRESHOLDS,
) -> Verdict:
    """The verdict on a reconstruction by its figures and, where the doctors were asked, by what they found.

    Their `causes` come first. Where the given positions explain the patterns better than any others, `is_confirmed`,
    the verdict is at worst doubtful, and good where only fitted photon noise keeps the object from explaining more.
    """
    found = sorted(_found(figures, thresholds), key=lambda one: one[0] != "bad")
    status: Status = found[0][0] if found else "good"
    reasons = (*causes, *(reason for _, reason in found))
    if found and is_confirmed:
        only_noise = (
            not causes and status == "doubtful" and len(found) == 1 and _explains_too_little(figures, thresholds)
        )
        status = "good" if only_noise else "doubtful"
        if only_noise:
            reasons = (Reason(f"{reasons[0].text}; {FITTED_NOISE}"),)
        elif not causes:
            reasons = (*reasons, CONFIRMED)
    return Verdict(status, reasons, as_numbers(figures))


def shows_an_object(figures: Figures, thresholds: Thresholds = THRESHOLDS) -> bool:
    """Whether the patterns differ by more than photon noise."""
    is_explained = figures.held_out.found > thresholds.significant * figures.held_out.error
    return is_explained or figures.null_over_floor >= thresholds.nothing


def as_numbers(figures: Figures) -> dict[str, float]:
    """The figures of a verdict for a JSON record."""
    return {
        "r_over_floor": figures.r_over_floor,
        "r_over_null": figures.r_over_null,
        "unexplained": figures.unexplained,
        "unexplained_error": figures.unexplained_error,
        "explained": figures.explained.share,
        "explained_error": figures.explained.relative_error,
        "deviance_over_expected": figures.deviance_over_expected,
        "own_wins": figures.own.wins,
        "own_wins_expected": figures.own.expected_wins,
        "own_gain": figures.own.gain,
        "correlation": figures.correlation,
        "patterns_per_pixel": figures.patterns_per_pixel,
        "span_px": figures.span_px,
        "misfit_in_worst_pixels": figures.misfit_in_worst_pixels,
        "misfit_in_worst_patterns": figures.misfit_in_worst_patterns,
    }


def _found(figures: Figures, limits: Thresholds) -> Iterator[tuple[Status, Reason]]:
    """What speaks against a result, each with the status that it leaves."""
    few = figures.patterns_per_pixel < limits.determined or len(figures.photons) < limits.fewest
    if figures.r_over_floor < limits.below_noise and few:
        text = "the patterns are explained better than photon noise allows: too few of them determine the object"
        yield "doubtful", Reason(text, way_out="more patterns, or more overlap")
        return
    if figures.r_over_floor < limits.below_noise:
        text = "the misfit is less than photon noise allows: the patterns are no photon counts"
        yield "doubtful", Reason(text, Cause.COUNTS, "patterns in photons, by the gain of the detector")
        return
    if not shows_an_object(figures, limits):
        text = "the patterns differ from their mean by photon noise only: they show no object"
        is_structured = figures.held_out.found < -limits.significant * figures.held_out.error
        yield "bad" if is_structured else "doubtful", Reason(text + ", though the result does" * is_structured)
        return
    good, bad = limits.unexplained
    unexplained = figures.unexplained - limits.unexplained_errors * figures.unexplained_error
    if unexplained > good:
        text = (
            f"{_percent(figures.unexplained)} of the differences between patterns, beyond photon noise, are unexplained"
        )
        yield (
            "bad" if unexplained > bad else "doubtful",
            Reason(f"{text} ({_percent(good)} at most where right)"),
        )
    if _explains_too_little(figures, limits):
        good, bad = limits.explained
        share, error = figures.explained.share, limits.errors * figures.explained.relative_error
        text = f"in pixels that no step used, {_percent(share)} of what an object could explain is explained"
        yield "bad" if share + error < bad else "doubtful", Reason(f"{text} ({_percent(good)} at least where right)")
    if figures.patterns_per_pixel < limits.patterns_per_pixel:
        text = f"{figures.patterns_per_pixel:.2g} patterns illuminate an object pixel"
        yield "doubtful", Reason(f"{text}: less than {limits.patterns_per_pixel:g} leaves the object undetermined")


def _explains_too_little(figures: Figures, limits: Thresholds) -> bool:
    return figures.explained.share + limits.errors * figures.explained.relative_error < limits.explained[0]


def _percent(share: float) -> str:
    return f"{100 * max(share, 0):.2g} %"
