"""A frame that got lost: from some pattern on, the positions are off by one or more.

The lag of a block of successive frames at the start of the scan is compared with that of one at its end; where they
differ, halving finds the block in which it changes, and trials find the frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ptycho_torch.data.grouping import compact_region
from ptycho_torch.data.scan import Scan
from ptycho_torch.verdict.causes import Cause
from ptycho_torch.verdict.hypotheses import LAGS, lag_of
from ptycho_torch.verdict.trials import Hypothesis, Trial, as_given, trial

BLOCK = 48
"""Successive frames whose lag is found together; a third of the scan, where that is less."""
LEAST = 16
"""Fewest frames of a block."""
SWEEPS = 6
STEPS = (8, 4, 2, 1)
"""Frames between the trials that find the lost one, in turn."""
SIGNIFICANT = 3.0
"""Standard errors from which on a lag of a block counts."""
WINDOW = 96
"""Patterns on which the lost frame is compared with the scan as it is."""


@dataclass(frozen=True, eq=False)
class LostFrame:
    """A lag from some pattern on, with its trial and that of the scan as given on the same patterns."""

    found: Trial
    given: Trial


def find_lost_frame(scan: Scan, *, device: torch.device | str = "cpu") -> LostFrame | None:
    """The lag at the end of a scan that begins without one, from its first pattern on; None where there is none."""
    size, reach = min(BLOCK, len(scan) // 3), max(LAGS)
    if size < LEAST:
        return None
    low, high = reach, len(scan) - reach - size  # first frames of the blocks
    if _lag(scan, low, size, (0, *LAGS), device) != 0:
        return None
    lag = _lag(scan, high, size, (0, *LAGS), device)
    if lag == 0:
        return None
    while high - low > size // 2:
        between = (low + high) // 2
        low, high = (between, high) if _lag(scan, between, size, (0, lag), device) == 0 else (low, between)
    first, last = max(low, reach), min(high + size, len(scan) - reach)
    window, best = np.arange(first, last), 0
    for step in STEPS:
        tried = range(first, last + 1, step) if not best else range(best - step, best + step + 1, step)
        done = [trial(lag_of(lag, frame), scan, window, sweeps=SWEEPS, device=device) for frame in tried]
        misfits = [math.inf if each is None else each.misfit for each in done]
        best = tried[int(np.argmin(misfits))]
    around = compact_region(scan.positions, best, len(scan))
    chosen = around[(around >= reach) & (around < len(scan) - reach)][:WINDOW]
    found, given = (
        trial(hypothesis, scan, chosen, sweeps=SWEEPS, device=device)
        for hypothesis in (lag_of(lag, best), Hypothesis(Cause.LAG, "", "", as_given))
    )
    if found is None or given is None or found.gain(given) < SIGNIFICANT:
        return None
    return LostFrame(found, given)


def _lag(scan: Scan, first: int, size: int, lags: tuple[int, ...], device: torch.device | str) -> int:
    """The lag that explains a block of frames best; the first one, unless another is significantly better."""
    block = np.arange(first, first + size)
    done = {lag: trial(lag_of(lag), scan, block, sweeps=SWEEPS, device=device) for lag in lags}
    found = {lag: each for lag, each in done.items() if each is not None}
    if lags[0] not in found:
        return lags[0]
    best = min(found, key=lambda lag: found[lag].misfit)
    return best if found[best].gain(found[lags[0]]) >= SIGNIFICANT else lags[0]
