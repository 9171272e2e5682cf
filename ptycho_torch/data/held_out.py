"""Which patterns, or which of their pixels, no step sees: the validation set of a refinement."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ptycho_torch.data.grouping import group_neighbours
from ptycho_torch.data.subsets import overlap

DENSE = 4.0
"""Patterns a pixel from which on a scan can spare whole patterns for judging; below, they give up some pixels each."""


LARGE = 200
"""Patterns from which on a scan can: the ones it spares leave no holes, and there are enough of them to judge."""


LEAST_JUDGED = 32
"""A scan of fewer patterns can spare nothing."""


SPARSE_JUDGING = 8
"""Of a pattern that judges without being spared, one measured pixel in this many is held out for it."""


class Judges(NamedTuple):
    """Patterns that tell how well an object predicts what it was not fitted to."""

    places: np.ndarray  # int64, among the patterns of a region
    every: int  # of their pixels, one in so many is held out: 1 for whole patterns


def pick_judges(positions: np.ndarray, probe: Tensor, *, moving: bool = False, share: float = 0.25) -> Judges:
    """Who judges a refinement, evenly spread over the scan.

    A few whole patterns where a scan is large and dense enough to do without them; else a `share` of the patterns with
    an eighth of their pixels. Positions and intensities that are `moving` need every pattern. Nobody judges a scan of
    fewer than 32.
    """
    count = len(positions)
    if count < LEAST_JUDGED:
        return Judges(np.arange(0), 1)
    if not moving and count >= LARGE and overlap(positions, probe) >= DENSE:
        return spared_patterns(positions)
    return Judges(_spread(positions, min(256, max(16, round(share * count)))), SPARSE_JUDGING)


def spared_patterns(positions: np.ndarray, *, fraction: float = 0.03) -> Judges:
    """Whole patterns as judges, whatever the probe."""
    count = len(positions)
    return Judges(_spread(positions, min(256, max(1, min(8, count // 8), round(fraction * count)))), 1)


def _spread(positions: np.ndarray, wanted: int) -> np.ndarray:
    return np.sort(group_neighbours(positions, len(positions) // wanted)[:wanted, 0])


def held_out_pixels(numbers: np.ndarray, n: int, *, every: int = SPARSE_JUDGING) -> np.ndarray:
    """One detector pixel in `every`, on a lattice that moves on from pattern to pattern: bool `[b, N, N]`."""
    line = np.arange(n)
    return (line[:, None] + 3 * line + 5 * np.asarray(numbers)[:, None, None]) % every == 0
