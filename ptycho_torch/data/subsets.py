"""The number of subsets of a sweep, from the number of patterns that illuminate an object pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.grouping import group_neighbours
from ptycho_torch.data.scan import Scan
from ptycho_torch.physics.patches import split_positions
from ptycho_torch.physics.probe import illumination

PATTERNS_PER_PIXEL = 2.5
"""Patterns of one subset that illuminate an object pixel: with fewer, the object is updated more often in a sweep."""


MOST_SUBSETS = 8


PHOTONS_PER_PIXEL = 40.0
"""Least photons per object pixel and subset for the larger number of subsets."""


def overlap(positions: np.ndarray, probe: Tensor) -> float:
    """Number of patterns that illuminate an object pixel, averaged over the illumination I: Σ I² / (Σ I · max|P|²)."""
    light = illumination(probe).cpu()
    n = light.shape[-1]
    whole, _ = split_positions(torch.as_tensor(positions))
    corners = whole - whole.amin(0)
    height, width = (int(side) + n for side in corners.amax(0))
    total = torch.zeros(height, width, dtype=light.dtype)
    for y, x in corners.tolist():
        total[y : y + n, x : x + n] += light
    return float(total.square().sum() / (total.sum() * light.max()))


def network_subsets(positions: np.ndarray, probe: Tensor) -> int:
    """The number of subsets for sweeps of a network: each still illuminates an object pixel a few times."""
    return int(np.clip(round(overlap(positions, probe) / PATTERNS_PER_PIXEL), 1, MOST_SUBSETS))


def refinement_subsets(scan: Scan, indices: np.ndarray, probe: Tensor) -> int:
    """Twice as many, for sweeps of a refinement."""
    return min(2 * network_subsets(scan.positions[indices], probe), MOST_SUBSETS)


def pretrained_subsets(scan: Scan, indices: np.ndarray, probe: Tensor) -> int:
    """The number for a refinement if each subset has `PHOTONS_PER_PIXEL` photons per object pixel, else that for a
    network."""
    light, most = illumination(probe), refinement_subsets(scan, indices, probe)
    photons = scan.mean_photons() * float(light.max() / light.sum()) * overlap(scan.positions[indices], probe)
    return most if photons >= PHOTONS_PER_PIXEL * most else network_subsets(scan.positions[indices], probe)


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
