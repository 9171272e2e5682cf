"""The validation set of a refinement: patterns, or pixels of patterns, that no step uses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ptycho_torch.data.grouping import group_neighbours
from ptycho_torch.data.subsets import overlap

DENSE = 4.0
"""Patterns per object pixel from which on whole patterns may be held out; below, some pixels of patterns are."""
LARGE = 200
"""Number of patterns from which on whole patterns may be held out: enough of them to be significant."""


LEAST = 32
"""In a scan of fewer patterns nothing is held out."""


ONE_IN = 8
"""Of a pattern that is not held out as a whole, one pixel in this many is."""


class ValidationSet(NamedTuple):
    """Held-out patterns, or pixels of patterns: their misfit evaluates an object that is not fitted to them."""

    patterns: np.ndarray  # int64, among the patterns of a region
    every: int  # of their pixels, one in so many is held out: 1 for whole patterns


def pick_validation_set(
    positions: np.ndarray, probe: Tensor, *, moving: bool = False, share: float = 0.25
) -> ValidationSet:
    """The validation set of a refinement, evenly spread over the scan.

    A few whole patterns where a scan is large and dense enough; else a `share` of the patterns with an eighth of their
    pixels. Positions and intensities that are refined (`moving`) need every pattern. Nothing is held out of a scan of
    fewer than 32.
    """
    count = len(positions)
    if count < LEAST:
        return ValidationSet(np.arange(0), 1)
    if not moving and count >= LARGE and overlap(positions, probe) >= DENSE:
        return held_out_patterns(positions)
    return ValidationSet(_spread(positions, min(256, max(16, round(share * count)))), ONE_IN)


def held_out_patterns(positions: np.ndarray, *, fraction: float = 0.03) -> ValidationSet:
    """A validation set of whole patterns, whatever the probe."""
    count = len(positions)
    return ValidationSet(_spread(positions, min(256, max(1, min(8, count // 8), round(fraction * count)))), 1)


def _spread(positions: np.ndarray, wanted: int) -> np.ndarray:
    return np.sort(group_neighbours(positions, len(positions) // wanted)[:wanted, 0])


def held_out_pixels(numbers: np.ndarray, n: int, *, every: int = ONE_IN) -> np.ndarray:
    """One detector pixel in `every`, on a lattice that moves on from pattern to pattern: bool `[b, N, N]`."""
    line = np.arange(n)
    return (line[:, None] + 3 * line + 5 * np.asarray(numbers)[:, None, None]) % every == 0
