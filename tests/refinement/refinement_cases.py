"""The scans and regions that refinement is tried on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ptycho_torch.data.held_out import pick_validation_set
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan
from ptycho_torch.metrics import compare
from ptycho_torch.refinement import Refined, Unknowns, refine


def region_of(scan: Scan, probe: np.ndarray | None = None, *, moving: bool = False, **options: Any) -> Region:
    start = torch.as_tensor(scan.probe if probe is None else probe)
    validation = pick_validation_set(scan.positions, start, moving=moving)
    settings = {"subsets": 6, "validation": validation, **options}
    return Region(scan, np.arange(len(scan)), start, **settings)


def flat(region: Region) -> torch.Tensor:
    return region.uniform_object()


def refined(
    region: Region, *, sweeps: int = 30, obj: torch.Tensor | None = None, start: str = "flat", **unknowns: Any
) -> Refined:
    with torch.inference_mode():
        first = flat(region) if obj is None else obj
        return refine(region, first, sweeps=sweeps, unknowns=Unknowns(**unknowns), start=start)  # type: ignore[arg-type]


def truth_of(scan: Scan, region: Region) -> torch.Tensor:
    """The true object on the canvas of a region that has the true probe, in its unit."""
    assert scan.obj is not None
    (top, left), (height, width) = region.origin, region.extent
    rows, columns = np.arange(top, top + height), np.arange(left, left + width)
    inside = np.ix_(rows.clip(0, scan.obj.shape[0] - 1), columns.clip(0, scan.obj.shape[1] - 1))
    truth = flat(region)
    truth[:height, :width] = torch.as_tensor(scan.obj[inside])
    return truth


def scores(scan: Scan, region: Region, obj: torch.Tensor, *, ramp: bool = False) -> dict[str, float]:
    """Against the truth, in the rectangle of the positions, global factor removed."""
    assert scan.obj is not None
    (y0, x0), (y1, x1) = scan.positions.min(0).astype(int) + 4, scan.positions.max(0).astype(int) - 4
    top, left = region.origin
    part = obj.numpy()[y0 - top : y1 - top, x0 - left : x1 - left]
    return compare(part, scan.obj[y0:y1, x0:x1], scale="complex", ramp=ramp)
