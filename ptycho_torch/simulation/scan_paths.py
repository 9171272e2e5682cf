"""Scan paths: the positions of the probe, float64 [position, 2] (y, x) in object pixels about the origin.

Every path gives each position an area of step² px²; `aspect` is the height of the field over its width.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def raster(count: int, *, step_px: float, aspect: float, rng: np.random.Generator) -> np.ndarray:
    """Rows of a square grid, scanned back and forth; the last row may be short."""
    rows = min(count, max(1, round(np.sqrt(count * aspect))))
    columns = -(-count // rows)
    row, column = np.divmod(np.arange(count), columns)
    column = np.where(row % 2 == 0, column, columns - 1 - column)
    return step_px * np.stack([row, column], axis=1).astype(np.float64)


def spiral(count: int, *, step_px: float, aspect: float, rng: np.random.Generator) -> np.ndarray:
    """Fermat spiral r = step·√(k/π), each position a golden angle further (Huang et al., Opt. Express 22, 12634,
    2014)."""
    k = np.arange(count)
    radius, angle = step_px * np.sqrt(k / np.pi), k * np.pi * (3 - np.sqrt(5))
    return np.stack([radius * np.sin(angle) * np.sqrt(aspect), radius * np.cos(angle) / np.sqrt(aspect)], axis=1)


def uniform(count: int, *, step_px: float, aspect: float, rng: np.random.Generator) -> np.ndarray:
    """Independent positions, uniform over a rectangle of count·step² px²."""
    side = step_px * np.sqrt(count)
    return rng.uniform(0, 1, size=(count, 2)) * (side * np.sqrt(aspect), side / np.sqrt(aspect))


SCAN_PATHS: dict[str, Callable[..., np.ndarray]] = {"raster": raster, "spiral": spiral, "random": uniform}
