"""What single pixels, values and frames say about a detector and a beam."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import median_filter
from torch import Tensor

from ptycho_torch.data.patterns import chunks
from ptycho_torch.data.scan import Scan
from ptycho_torch.physics.likelihood import Amplitude, Poisson
from ptycho_torch.verdict.trials import Trial

LONELY = 20.0
"""A pixel is suspect where its misfit is this many times the median of its neighbourhood."""
NEIGHBOURHOOD_PX = 9
"""Side of that neighbourhood: a gap of four rows is a minority in it."""
MOST_SUSPECTS = 0.15
"""Share of the pixels from which on suspects are no single pixels any more."""
OUTLIER = 3.0
"""A frame is suspect with this many times the median light, or one part in so many of it."""
SPREADS = 6.0
"""… and as many times the spread of the logarithms of the frames' light from their median."""
RAY = 10.0
"""A frame is suspect whose brightest pixel is this many times that of the median frame."""
PILED_UP = 8
"""Least number of values at the ceiling, and least times more of them than there are in the highest tenth below."""


ALWAYS = 0.9
"""Share of the patterns from which on a pixel at the ceiling is no saturated one."""


@dataclass(frozen=True, eq=False)
class Frames:
    """The light of each frame, from one pass."""

    light: np.ndarray  # float64 [n], Σ counts without the brightest pixel, which may be a cosmic ray
    brightest: np.ndarray  # float64 [n], the largest count

    @classmethod
    def of(cls, scan: Scan) -> Frames:
        """Of all frames of a scan."""
        light, brightest = np.zeros(len(scan)), np.zeros(len(scan))
        for part in chunks(len(scan), scan.n**2):
            counts = scan.counts(part)
            brightest[part] = counts.max((1, 2))
            light[part] = counts.sum((1, 2), dtype=np.float64) - brightest[part]
        return cls(light, brightest)

    @property
    def with_rays(self) -> np.ndarray:
        """bool `[n]`: frames with a value far above what others hold."""
        return self.brightest > RAY * max(float(np.median(self.brightest)), 1.0)

    @property
    def without_light(self) -> np.ndarray:
        """bool `[n]`: frames far darker or brighter than the others."""
        logarithm = np.log(np.maximum(self.light, 1e-3 * max(float(self.light.max()), 1e-30)))
        away = np.abs(logarithm - np.median(logarithm))
        return away > max(np.log(OUTLIER), SPREADS * float(np.median(away)))


def suspect_pixels(trial: Trial) -> np.ndarray:
    """bool `[N, N]`: pixels whose misfit Σ_j(√λ − √n)² is far above that of the pixels around."""
    error = misfit_map(trial)
    around = median_filter(error, size=NEIGHBOURHOOD_PX, mode="nearest")
    typical = float(np.median(error[trial.region.scan.valid]))
    suspects = error > LONELY * np.maximum(around, typical)
    return suspects if suspects.mean() <= MOST_SUSPECTS else np.zeros_like(suspects)


def misfit_map(trial: Trial) -> np.ndarray:
    """Σ_j(√λ − √n)² of each pixel over all patterns, fitted or held out, float64 `[N, N]`."""
    region, found = trial.region, trial.found
    total = torch.zeros(region.n, region.n, dtype=torch.float64)
    with torch.inference_mode():
        for batch in (*region.batches(), *region.validation_batches()):
            predicted = region.forward.counts(found.object, found.exposure(batch, found.unknowns))
            total += ((predicted.sqrt() - batch.amplitude).square() * batch.valid).sum(0).cpu()
    return total.numpy()


def masked(scan: Scan, bad: np.ndarray) -> Scan:
    """The scan without these pixels `[N, N]`."""
    return replace(scan, valid=scan.valid & ~bad)


def saturated_pixels(scan: Scan, chosen: np.ndarray) -> tuple[float, np.ndarray] | None:
    """The ceiling at which counts pile up, and the pixels that reach it, bool `[N, N]`; None where there is none.

    Few counts reach the largest one, and more lie just below it, unless it is a ceiling. A pixel that is there in
    nearly every pattern has another fault, and is not counted.
    """
    counts = scan.counts(chosen)
    top = float(counts.max())
    at_top = counts >= top
    some = (at_top.mean(0) < ALWAYS) & scan.valid
    piled, below = int(at_top[:, some].sum()), int(((counts >= 0.9 * top) & ~at_top)[:, some].sum())
    if top < PILED_UP or piled < PILED_UP * max(1.0, below / 10):
        return None
    return top, at_top.any(0) & scan.valid


def dark_level(scan: Scan, chosen: np.ndarray) -> float:
    """Mean count of the darkest twentieth of the pixels of the mean pattern: an upper bound of a background."""
    mean = np.sort(scan.mean_counts(chosen)[scan.valid])
    return float(mean[: max(1, len(mean) // 20)].mean())


@dataclass(frozen=True)
class WithBackground(Poisson):
    """Counts of a known uniform background b on top of the predicted ones: n ~ Poisson(I + b).

    Steps are those of the amplitude, ½ Σ (√(I + b) − √n)², as in the first sweeps from a flat object.
    """

    photons: float = 0.0

    def step(
        self, intensity: Tensor, amplitude: Tensor, valid: Tensor, *, softening: Tensor, background: float
    ) -> Tensor:
        return Amplitude().step(intensity + self.photons, amplitude, valid, softening=softening, background=background)

    def value(self, predicted: Tensor, amplitude: Tensor, valid: Tensor) -> Tensor:
        return super().value(predicted + self.photons, amplitude, valid)
