"""A simulated scan's truth on the canvas of its region, and how far an object is from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan


def turned_to(truth: Tensor, obj: Tensor, weight: Tensor) -> Tensor:
    """e^{iφ}T with the phase φ that brings it nearest to the object."""
    overlap = (weight * obj * truth.conj()).sum((-2, -1), keepdim=True)
    return truth * overlap / overlap.abs().clamp_min(1e-30)


def as_region(scan: Scan, **options: Any) -> tuple[Region, Tensor]:
    """All patterns of a scan with a known object, and this object on their canvas."""
    assert scan.obj is not None
    region = Region(scan, np.arange(len(scan)), torch.from_numpy(scan.probe), **options).loaded()
    truth = region.uniform_object()
    (y, x), (height, width) = region.origin, region.extent
    truth[:height, :width] = torch.from_numpy(scan.obj[y : y + height, x : x + width])
    return region, truth


def relative_error(obj: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Σ w |e^{iφ}O − T|² / Σ w |T|² with the best global phase φ."""
    overlap = (weight * obj.conj() * truth).sum()
    power = (weight * truth.abs().square()).sum()
    return ((weight * obj.abs().square()).sum() + power - 2 * overlap.abs()) / power
