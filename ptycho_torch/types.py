"""Values that travel between the layers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptycho_torch.errors import PtychoError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

Domain = Literal["counts", "amplitude"]
"""The values of a pattern: photons, or their square roots."""
Propagation = Literal["far", "near"]
"""From the object to the detector: Fraunhofer (far field) or Fresnel (near field)."""
Status = Literal["good", "doubtful", "bad"]
"""Whether a reconstruction explains its patterns."""


@dataclass(frozen=True)
class Reason:
    """One sentence of a verdict: what was found, its likely cause in a word or two, and the way out."""

    text: str  # with its figure and the threshold
    cause: str = ""  # such as "flip y", "units", "lag"; empty where none is known
    way_out: str = ""  # what to try, such as "--flip y"

    def __str__(self) -> str:
        return f"{self.text}: try {self.way_out}" if self.way_out else self.text


@dataclass(frozen=True)
class Verdict:
    """What can be said of a reconstruction without knowing the truth."""

    status: Status
    reasons: tuple[Reason, ...] = ()
    figures: dict[str, float] = field(default_factory=dict)  # r_over_floor, r_over_null, own_wins, …

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Verdict:
        """What `as_dict` gave."""
        figures = {name: value for name, value in record.items() if name not in ("status", "reasons")}
        return cls(record["status"], tuple(Reason(**reason) for reason in record["reasons"]), figures)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON record."""
        return {"status": self.status, "reasons": [vars(reason) for reason in self.reasons], **self.figures}

    def in_lines(self) -> list[str]:
        """The status with the misfit, then a line for each reason."""
        line = f"verdict {self.status}"
        if {"r_over_floor", "r_over_null"} <= self.figures.keys():
            floor, null = self.figures["r_over_floor"], self.figures["r_over_null"]
            line += f": misfit {floor:.3g} x photon noise, {null:.2g} x a model without object"
        return [line, *map(str, self.reasons)]

    def __str__(self) -> str:
        return "; ".join(self.in_lines())


@dataclass(frozen=True, eq=False)
class Examples:
    """Measured and predicted counts of a few patterns: their mean, the median and the worst by misfit."""

    names: tuple[str, ...]  # such as "mean of 144", "median (pattern 12)", "worst (pattern 77)"
    measured: np.ndarray  # float32 [k, N, N], photons
    predicted: np.ndarray  # float32 [k, N, N], photons
    valid: np.ndarray  # bool [k, N, N], True = measured


@dataclass(frozen=True, eq=False, repr=False)
class Reconstruction:
    """A reconstructed object on the scan's own object grid.

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
    scores: dict[str, Any] = field(default_factory=dict)  # the content of metrics.json
    verdict: Verdict | None = None  # whether the object explains the patterns
    examples: Examples | None = None  # patterns beside their predictions
    provenance: dict[str, Any] = field(default_factory=dict)  # version, model, intensity scale, settings, scan

    @property
    def has_arbitrary_amplitude(self) -> bool:
        """Whether |object| is in an arbitrary unit, because the probe was not in √photons."""
        return str(self.provenance.get("intensity_scale", {}).get("origin", "")).endswith("measured")

    def among(self, positions: np.ndarray) -> np.ndarray:
        """All positions of the scan, float64 `[n, 2]`, with those that were used where this reconstruction has them."""
        placed = positions.copy()
        placed[self.pattern_indices] = self.positions
        return placed

    def lay_into(self, obj: np.ndarray, origin: Iterable[int]) -> None:
        """Write the object into an array `[H, W]` whose first pixel lies at `origin` of the scan's object grid."""
        y, x = (int(one - other) for one, other in zip(self.origin, origin, strict=True))
        height, width = self.object.shape[-2], self.object.shape[-1]
        y0, x0, y1, x1 = max(y, 0), max(x, 0), min(y + height, obj.shape[0]), min(x + width, obj.shape[1])
        obj[y0:y1, x0:x1] = self.object[y0 - y : y1 - y, x0 - x : x1 - x]

    @classmethod
    def from_file(cls, path: str | Path) -> Reconstruction:
        """The reconstruction in a .npz or .h5 file that `save` has written; DataError where it holds none."""
        from ptycho_torch.report.results import read_reconstruction

        return read_reconstruction(Path(path))

    def save(self, path: str | Path) -> None:
        """Write a file, whole or not at all, in the format of its suffix.

        .npz: the arrays, scores and provenance. .h5: the same as plain datasets with their units. .tif: amplitude and
        phase [rad], float32 pages. Raises UsageError for any other suffix.
        """
        from ptycho_torch.report.results import save_reconstruction

        save_reconstruction(self, Path(path))

    def plot(self) -> Figure:
        """A figure of amplitude, phase and probe, of the illuminated part of the object."""
        from ptycho_torch.report.results import draw_reconstruction

        return draw_reconstruction(self)

    def __repr__(self) -> str:
        from ptycho_torch.report.results import facts_of

        return f"Reconstruction({', '.join(facts_of(self))})"

    def _repr_html_(self) -> str:
        from ptycho_torch.report.results import as_html

        return as_html(self)


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
