"""Which part of an object is shown, in which gauge and range."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ptycho_torch.metrics import is_lit, phase_ramp

LEAST_AND_MOST = (0.005, 0.995)
"""Quantiles of the illumination at which the colours end."""
NOISE_SPAN = 10.0
"""Least range of the colours, in standard deviations of photon noise.

White noise alone spans 5.2 of them between these quantiles; an empty beam at 1e3 photons per pixel 3.9 in phase and 2.1
in amplitude. Simulated objects span 8 in phase at 1e2 photons per pattern, 15 at 1e3, 145 at 1e5.
"""
FULL_CONTRAST = 1.0
"""A range of this much transmission, or radians, is never taken for noise, however few photons there are."""
COARSE_PX = 512
"""An object larger than this is averaged over blocks to find the rest of its phase ramp."""
ENOUGH_VALUES = 2**20

Box = tuple[slice, slice]


class Display(NamedTuple):
    """An object as it is shown: the box of its illuminated pixels, the others NaN."""

    amplitude: np.ndarray  # float32 [h, w], dimensionless
    phase: np.ndarray  # float32 [h, w], rad, in (−π, π] about the mean, without ramp
    box: Box  # rows and columns of the object that the two show


def for_display(obj: np.ndarray, weight: np.ndarray) -> Display:
    """Amplitude and phase of the illuminated part of an object [H, W], without ramp and offset of the phase.

    Illuminated: weight ≥ 5 % of its largest, object finite. The linear ramp and the offset of the phase are not
    determined by the data, or hardly, and are removed here, for display only; the object itself is not touched.
    """
    seen = illuminated_object(obj, weight)
    box = bounding_box(seen)
    seen = seen[box]
    light = np.where(seen, weight[box], 0.0)
    level = levelled(np.where(seen, obj[box], 0).astype(np.complex128), light)
    amplitude, phase = (np.where(seen, part, np.nan).astype(np.float32) for part in (np.abs(level), np.angle(level)))
    return Display(amplitude, phase, box)


def illuminated_object(obj: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Illuminated pixels: bool [H, W]; all finite pixels if no illumination is known."""
    finite = np.isfinite(obj)
    return finite & is_lit(weight) if weight.max() > 0 else finite


def bounding_box(inside: np.ndarray) -> Box:
    """Rows and columns of the smallest rectangle that holds all True pixels; the whole array when there are none."""
    if not inside.any():
        return slice(0, inside.shape[0]), slice(0, inside.shape[1])
    rows, columns = (np.nonzero(inside.any(axis=axis))[0] for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def levelled(obj: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The object without the linear ramp and the offset of its phase; |obj| stays as it is.

    Two steps, neither of which ever unwraps: the mean phase gradient, k = arg Σ w·obj(r + 1)·obj*(r), then the plane
    that fits the remaining phase, as the mean over blocks of pixels.
    """
    obj = _without_ramp(obj, np.array([_mean_gradient(obj, weight, axis) for axis in (0, 1)]))
    block = max(1, math.ceil(max(obj.shape) / COARSE_PX))
    coarse = _summed_over_blocks(obj * weight, block)
    obj = _without_ramp(obj, phase_ramp(coarse, np.ones_like(coarse)) / block)
    return obj * np.exp(-1j * np.angle(np.sum(obj * weight)))


def photon_noise(photons: np.ndarray) -> float:
    """The noise of amplitude, or of phase [rad], that the photons `n` of each pixel leave: Σ √n / (2 Σ n).

    A wave of n photons has a standard deviation of ½ √photon along and across its own direction, thus 1/(2√n) of its
    modulus; the mean is over the light. For the phase, n are the transmitted photons, Σ|probe|² |object|²; for the
    amplitude those of the illumination, Σ|probe|². 0 where there is no light.
    """
    n = photons[np.isfinite(photons)].astype(np.float64)
    return float(np.sqrt(n).sum() / (2 * n.sum())) if n.sum() > 0 else 0.0


def least_range(photons: np.ndarray) -> float:
    """The smallest range of colours that does not make noise look like structure, for `photon_noise` of `photons`."""
    return min(NOISE_SPAN * photon_noise(photons), FULL_CONTRAST)


def colour_limits(image: np.ndarray, weight: np.ndarray, *, least: float = 0.0) -> tuple[float, float]:
    """The values between which 99 % of the light fell, from the 0.5th to the 99.5th percentile; NaN pixels left out.

    A range below `least` is widened about its middle.
    """
    seen = np.isfinite(image) & (weight > 0)
    if not seen.any():
        return 0.0, 1.0
    values, weights = image[seen].astype(np.float64), weight[seen].astype(np.float64)
    step = math.ceil(values.size / ENOUGH_VALUES)
    low, high = np.quantile(values[::step], LEAST_AND_MOST, weights=weights[::step], method="inverted_cdf")
    if high - low <= 1e-6 * max(abs(high), abs(low)):
        least = least or 1.0
    if high - low < least:
        middle = 0.5 * (low + high)
        low, high = middle - 0.5 * least, middle + 0.5 * least
    return float(low), float(high)


def _mean_gradient(obj: np.ndarray, weight: np.ndarray, axis: int) -> float:
    obj, weight = np.moveaxis(obj, axis, 0), np.moveaxis(weight, axis, 0)
    return float(np.angle(np.sum(np.minimum(weight[1:], weight[:-1]) * obj[1:] * obj[:-1].conj())))


def _without_ramp(obj: np.ndarray, slope: np.ndarray) -> np.ndarray:
    y, x = (np.exp(-1j * k * np.arange(size)) for k, size in zip(slope, obj.shape, strict=True))
    return obj * y[:, None] * x


def _summed_over_blocks(image: np.ndarray, block: int) -> np.ndarray:
    rows, columns = (np.arange(0, size, block) for size in image.shape)
    return np.add.reduceat(np.add.reduceat(image, rows, axis=0), columns, axis=1)
