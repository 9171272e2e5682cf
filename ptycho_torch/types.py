"""Values that travel between the layers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ptycho_torch.errors import PtychoError

if TYPE_CHECKING:
    import numpy as np

Domain = Literal["counts", "amplitude"]
"""What the numbers of a pattern are: photons, or their square roots."""
Propagation = Literal["far", "near"]
"""From the object to the detector: Fraunhofer (far field) or Fresnel (near field)."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A picture of the object on the scan's own object grid.

    `object[0, 0]` lies at the whole-pixel (y, x) `origin` of the scan's object grid, so a pattern at `positions[j]`
    was taken with array index N//2 of the probe on `object` index `positions[j] - origin`.
    """

    object: np.ndarray  # complex64 [H, W], dimensionless transmission
    weight: np.ndarray  # float32 [H, W], photons of illumination that reached each object pixel, Σ|probe|²
    origin: tuple[int, int]  # (y, x) of object[0, 0], object pixels
    positions: np.ndarray  # float64 [n, 2] (y, x), object pixels, of the patterns used
    pattern_indices: np.ndarray  # int64 [n], which patterns of the scan were used
    intensity_scale: float
    pixel_size_m: float | None = None
    probe: np.ndarray | None = None  # complex64 [mode, N, N], √photons, as it explains the patterns with this object
    given_positions: np.ndarray | None = None  # float64 [n, 2], before a refinement
    intensities: np.ndarray | None = None  # float32 [n], factor on the counts of each pattern that a refinement found
    undenoised: np.ndarray | None = None  # complex64 [H, W], the maximum-likelihood object, where `object` is denoised
    scores: dict = field(default_factory=dict)  # what metrics.json says


def check_finite(reconstruction: Reconstruction) -> None:
    """PtychoError where an array of a reconstruction holds NaN or infinite values: no such result is written."""
    import numpy as np

    for name, value in vars(reconstruction).items():
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            lost = int((~np.isfinite(value)).sum())
            raise PtychoError(
                f"the reconstruction diverged: {name} holds NaN or infinite values ({lost} of {value.size}), nothing "
                "is written; free fewer unknowns, or start from another --model_path"
            )
