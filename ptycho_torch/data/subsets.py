"""In how many subsets a sweep visits the patterns, from how often they light an object pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.grouping import group_neighbours
from ptycho_torch.data.scan import Scan
from ptycho_torch.physics.patches import split_positions
from ptycho_torch.physics.probe import illumination

PATTERNS_A_PIXEL = 2.5
"""How many patterns of one subset light an object pixel: fewer let the object move more often in a sweep."""
MOST_SUBSETS = 8
BRIGHT = 40.0
"""Photons that each subset has to bring to an object pixel before there may be more of them."""


def overlap(positions: np.ndarray, probe: Tensor) -> float:
    """How many patterns light an object pixel, averaged over the illumination I: Σ I² / (Σ I · max|P|²)."""
    light = illumination(probe).cpu()
    n = light.shape[-1]
    whole, _ = split_positions(torch.as_tensor(positions))
    corners = whole - whole.amin(0)
    height, width = (int(side) + n for side in corners.amax(0))
    total = torch.zeros(height, width, dtype=light.dtype)
    for y, x in corners.tolist():
        total[y : y + n, x : x + n] += light
    return float(total.square().sum() / (total.sum() * light.max()))


def handy_subsets(positions: np.ndarray, probe: Tensor) -> int:
    """In how many subsets a sweep should visit this scan: each still lights an object pixel a few times."""
    return int(np.clip(round(overlap(positions, probe) / PATTERNS_A_PIXEL), 1, MOST_SUBSETS))


def refining_subsets(scan: Scan, indices: np.ndarray, probe: Tensor) -> int:
    """Twice as many, for sweeps without a network behind them: smaller steps towards a sharper object."""
    return min(2 * handy_subsets(scan.positions[indices], probe), MOST_SUBSETS)


def bright_subsets(scan: Scan, indices: np.ndarray, probe: Tensor) -> int:
    """The refining subsets where each still brings `BRIGHT` photons to an object pixel, else the handy ones."""
    light, most = illumination(probe), refining_subsets(scan, indices, probe)
    photons = scan.mean_photons() * float(light.max() / light.sum()) * overlap(scan.positions[indices], probe)
    return most if photons >= BRIGHT * most else handy_subsets(scan.positions[indices], probe)


def interleaved_subsets(positions: np.ndarray, count: int) -> list[np.ndarray]:
    """`count` disjoint subsets of the patterns, each spread evenly over the scan: one of every group of neighbours.

    Indices int64, all patterns once; with fewer patterns than `count`, a subset for each pattern.
    """
    count = min(count, len(positions))
    if count <= 1:
        return [np.arange(len(positions))]
    groups = group_neighbours(positions, count)
    _, first = np.unique(groups, return_index=True)
    taken = np.zeros(groups.size, bool)
    taken[first] = True
    return [groups[:, member][taken.reshape(groups.shape)[:, member]] for member in range(count)]
