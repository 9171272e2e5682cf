"""Which position belongs to which pattern, by the indexes that both carry."""

from __future__ import annotations

import numpy as np


def matched(
    frame_indexes: np.ndarray, position_indexes: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The frames that have a position (row numbers, ascending), their positions `[m, 2]`, and what was done.

    The rule of ptychodus: the patterns' indexes are authoritative; positions of one index are averaged, a missing one
    is interpolated linearly between its neighbours, those of no pattern are dropped. A pattern before the first or
    after the last position has none and is left out. frame_indexes `[n]`, position_indexes `[k]`, positions `[k, 2]`.
    """
    notes = list[str]()
    known, place, times = np.unique(position_indexes, return_inverse=True, return_counts=True)
    mean = np.stack([np.bincount(place, axis) / times for axis in positions.T], axis=1)
    if len(known) < len(position_indexes):
        notes.append(f"{len(position_indexes) - len(known)} positions share their index with another: averaged")
    dropped = int(np.isin(known, frame_indexes, invert=True).sum())
    if dropped:
        notes.append(f"{dropped} positions belong to none of the {len(frame_indexes)} patterns: left out")
    is_inside = (frame_indexes >= known[0]) & (frame_indexes <= known[-1])
    rows = np.flatnonzero(is_inside)
    if len(rows) < len(frame_indexes):
        notes.append(f"{len(frame_indexes) - len(rows)} patterns lie outside the positions' indexes: left out")
    interpolated = int(np.isin(frame_indexes[rows], known, invert=True).sum())
    if interpolated:
        notes.append(f"{interpolated} patterns have no position of their own: interpolated")
    places = np.stack([np.interp(frame_indexes[rows], known, axis) for axis in mean.T], axis=1)
    return rows, places, notes
