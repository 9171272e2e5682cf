"""The small scans that tests look at: simulated, with known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.data.scan import Scan
from ptycho_torch.simulation import simulate_scan
from ptycho_torch.simulation.as_scan import simulate


def dense_scan(*, photons: float = 1e6, seed: int = 3, **options: Any) -> Scan:
    """120 patterns of 32 x 32 pixels so close together that each object pixel is seen many times."""
    settings = {"n": 32, "positions": 120, "step_px": 3.4, "jitter_px": 1.0, "aspect": 0.7, **options}
    return simulate(photons=photons, seed=seed, **settings)


def sparse_scan(*, photons: float = 1e4, seed: int = 3, noise: bool = False, **options: Any) -> Scan:
    """60 patterns of 32 x 32 pixels with a usual overlap, without noise."""
    settings = {"n": 32, "positions": 60, "step_px": 4.3, "aspect": 0.6, **options}
    return simulate(photons=photons, seed=seed, noise=noise, **settings)


def write_scan(path: Path, **options: Any) -> Path:
    """A scan file of 144 patterns of 32 x 32 pixels."""
    settings = {"n": 32, "positions": 144, "step_px": 5.0, "aspect": 0.7, **options}
    simulate_scan(**settings).save(path)
    return path


def rewritten(scan: Path, path: Path, **changes: object) -> Path:
    """A copy of a scan file with some arrays changed; None takes one away."""
    with np.load(scan) as file:
        arrays = {key: file[key] for key in file.files}
    for key, value in changes.items():
        if value is None:
            arrays.pop(key)
        else:
            arrays[key] = np.asarray(value)
    np.savez(path, **arrays)
    return path
