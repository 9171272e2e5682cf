"""Trials: how well a changed scan explains its own held-out pixels after a few sweeps from a flat object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.geometry import neighbour_distance
from ptycho_torch.data.held_out import ONE_IN, ValidationSet
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import refinement_subsets
from ptycho_torch.physics.likelihood import Likelihood
from ptycho_torch.refinement.schedule import SCHEDULE
from ptycho_torch.refinement.solver import refine
from ptycho_torch.refinement.state import OBJECT_ONLY, Estimate, Refined, Unknowns
from ptycho_torch.refinement.validation import gain_in_standard_errors, held_out_misfits
from ptycho_torch.verdict.causes import Cause

APART = 1.0
"""Patterns this many times N apart share no light: positions that spread more are drawn together, so that a wrong unit
needs no large canvas."""
LARGEST_CANVAS = 2**23
"""Pixels of the largest canvas of a trial: 64 patterns of 256 x 256 that just don't touch have 9e6."""


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A change of a scan that may cure it: what is tried, and what is said if it helps."""

    cause: Cause
    what: str  # the subject of "… explains the patterns 4.1 x better"
    way_out: str
    change: Callable[[Scan, np.ndarray], Scan]  # (scan, indices) → the scan of these patterns, changed
    unknowns: Unknowns = OBJECT_ONLY
    likelihood: str | Likelihood = "poisson"
    value: float = 0.0  # of a search: the factor, or the angle [degrees]


@dataclass(frozen=True, eq=False)
class Trial:
    """A hypothesis with the misfits that it leaves."""

    hypothesis: Hypothesis
    misfits: Tensor  # per held-out pixel, of each pattern, float64 [n]
    region: Region = field(repr=False)
    found: Refined = field(repr=False)

    @property
    def misfit(self) -> float:
        """Mean over the patterns; infinite where the trial diverged."""
        value = float(self.misfits.mean())
        return value if np.isfinite(value) else float("inf")

    def factor(self, before: Trial) -> float:
        """How many times better this explains the held-out pixels."""
        return before.misfit / max(self.misfit, 1e-30)

    def gain(self, before: Trial) -> float:
        """The mean decrease of the misfits of the same patterns, in standard errors."""
        return gain_in_standard_errors(before.misfits, self.misfits)


def as_given(scan: Scan, chosen: np.ndarray) -> Scan:
    """The scan of these patterns as it is."""
    return scan.subset(chosen)


def trial(
    hypothesis: Hypothesis, scan: Scan, chosen: np.ndarray, *, sweeps: int, device: torch.device | str = "cpu"
) -> Trial | None:
    """Some sweeps on the patterns `chosen` of the changed scan, from a flat object; None where its canvas is too large.

    An eighth of the pixels of every pattern is held out: all patterns are paired with those of another trial.
    """
    changed = _drawn_together(hypothesis.change(scan, chosen))
    spread = np.ptp(changed.positions, axis=0) + changed.n
    if spread.prod() > LARGEST_CANVAS:
        return None
    probe, every = torch.as_tensor(changed.probe), np.arange(len(changed))
    margin = SCHEDULE.margin_px if hypothesis.unknowns.has_positions else 0
    region = Region(
        changed,
        every,
        probe,
        subsets=refinement_subsets(changed, every, probe),
        validation=ValidationSet(every, ONE_IN),
        margin=margin,
        device=device,
    )
    with torch.inference_mode():
        found = refine(
            region,
            region.uniform_object(),
            sweeps=sweeps,
            unknowns=hypothesis.unknowns,
            likelihood=hypothesis.likelihood,
        )
    return Trial(hypothesis, found.held_out.cpu(), region, found)


def misfits_of(estimate: Estimate, region: Region, likelihood: str | Likelihood = "poisson") -> Tensor:
    """The misfits of an estimate on the held-out pixels of another region of the same patterns, float64 `[n]`."""
    with torch.inference_mode():
        return held_out_misfits(region, estimate, OBJECT_ONLY, likelihood).cpu()


def _drawn_together(scan: Scan) -> Scan:
    """The scan, its positions drawn together where even the nearest of them are too far apart to share light."""
    step, widest = neighbour_distance(scan.positions), APART * scan.n
    return scan if step <= widest else replace(scan, positions=scan.positions * (widest / step))
