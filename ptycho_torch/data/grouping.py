"""Splits, regions and groups of neighbouring patterns, by their positions."""

from __future__ import annotations

import numpy as np

from ptycho_torch.errors import DataError, UsageError


def split_by_position(positions: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, held out): the patterns of the strip at the far end of the scan's longer side are held out.

    A `fraction` of the patterns is held out, rounded, and at least one on either side when there are two. The kept
    probes reach into the strip by half a probe width, so only object pixels deeper inside are unseen. Deterministic; a
    fraction of 0 holds nothing out.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"the fraction to hold out is {fraction}: a number from 0 to below 1 is needed")
    n = len(positions)
    if fraction == 0 or n < 2:
        return np.arange(n), np.arange(0)
    held_out = min(max(round(fraction * n), 1), n - 1)
    order = _along_longer_side(positions)
    return np.sort(order[: n - held_out]), np.sort(order[n - held_out :])


def compact_region(positions: np.ndarray, anchor: int, count: int) -> np.ndarray:
    """The `count` patterns nearest to pattern `anchor`, itself first, ties by index: int64 [count]."""
    distances = np.square(positions - positions[anchor]).sum(axis=1)
    distances[anchor] = -1  # before patterns taken at the very same position
    return _nearest(distances, count)


def central_region(positions: np.ndarray, count: int) -> np.ndarray:
    """The `count` patterns nearest to the centre of the scan's bounding box, ties by index: int64 [count]."""
    centre = (positions.min(axis=0) + positions.max(axis=0)) / 2
    return _nearest(np.square(positions - centre).sum(axis=1), count)


def group_neighbours(positions: np.ndarray, size: int) -> np.ndarray:
    """Groups of `size` neighbouring patterns, int64 [g, size], that together hold every pattern.

    The scan is halved across its longer side, and so are the halves, down to single groups, always at a whole number
    of groups. Each group starts with the pattern nearest to its centre. Only when n is no multiple of `size` does a
    pattern occur twice: the last group is filled up with the patterns nearest to its own that other groups have used.
    Raises DataError when there are fewer patterns than one group needs.
    """
    if size < 1:
        raise UsageError(f"the group size is {size}: at least 1 is needed")
    if len(positions) < size:
        raise DataError(f"{len(positions)} patterns, a group needs {size}: lower --gridsize or use more patterns")
    *full, last = _halved(positions, np.arange(len(positions)), size)
    distances = np.square(positions - positions[last].mean(axis=0)).sum(axis=1)
    distances[last] -= distances.max() + 1  # its own patterns come first
    return np.stack([*(_centre_first(positions, group) for group in full), _nearest(distances, size)])


def central_groups(positions: np.ndarray, used: np.ndarray, size: int) -> list[np.ndarray]:
    """Compact groups of `size` patterns, those nearest to the scan's centre first, out of the patterns in `used`.

    The groups are cut from the whole scan, so that two runs that use different parts of it still look at the same
    groups. Where no group lies wholly inside `used`, all of `used` is the only group.
    """
    groups = group_neighbours(positions, min(size, len(positions)))
    inside = groups[np.isin(groups, used).all(axis=1)]
    if len(inside) == 0:
        return [used]
    centre = (positions.min(axis=0) + positions.max(axis=0)) / 2
    distances = np.square(positions[inside].mean(axis=1) - centre).sum(axis=1)
    return list(inside[np.argsort(distances, kind="stable")])


def _along_longer_side(positions: np.ndarray) -> np.ndarray:
    """Indices in the order of the coordinate that spans more, equal ones by the other coordinate, then by index."""
    longer = int(np.argmax(np.ptp(positions, axis=0)))
    return np.lexsort((positions[:, 1 - longer], positions[:, longer]))


def _nearest(distances: np.ndarray, count: int) -> np.ndarray:
    if not 1 <= count <= len(distances):
        raise UsageError(f"{count} patterns are asked for: 1 to {len(distances)} can be had")
    return np.argsort(distances, kind="stable")[:count]


def _centre_first(positions: np.ndarray, group: np.ndarray) -> np.ndarray:
    distances = np.square(positions[group] - positions[group].mean(axis=0)).sum(axis=1)
    return group[np.argsort(distances, kind="stable")]


def _halved(positions: np.ndarray, some: np.ndarray, size: int) -> list[np.ndarray]:
    """Compact groups of `size` out of these patterns, only the last one smaller."""
    if len(some) <= size:
        return [some]
    order = some[_along_longer_side(positions[some])]
    groups = -(-len(some) // size)
    middle = groups // 2 * size
    return _halved(positions, order[:middle], size) + _halved(positions, order[middle:], size)
