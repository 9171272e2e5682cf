"""Checks of a scan: shapes and values, and whether patterns are counts or amplitudes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from ptycho_torch.data.patterns import chunks
from ptycho_torch.types import Domain, Propagation

SMALLEST_N = 16
ROUNDING = 2 * float(np.finfo(np.float32).eps)
"""Relative error of the square of a single-precision number."""
LARGEST_TELLING = 0.05 / ROUNDING
"""Above this, the square of a single-precision number doesn't tell whether it is meant to be whole."""
SAME_POWER = 4.0
"""Patterns and probe count the same photons when they agree within this factor."""


@dataclass(frozen=True, eq=False)
class Survey:
    """Statistics of the measured pixels of all patterns, from one pass."""

    broken: np.ndarray  # bool [n], NaN or infinite values
    negative: np.ndarray  # bool [n]
    empty: np.ndarray  # bool [n], zero everywhere
    dtype: np.dtype
    whole: bool  # every value is a whole number
    whole_squares: bool  # every square is, and some are larger than one
    power: float  # mean over patterns of Σx²
    total: float  # mean over patterns of Σx

    @classmethod
    def of(cls, patterns: np.ndarray, valid: np.ndarray) -> Survey:
        """Surveys patterns [n, N, N] on their `valid` [N, N] pixels, in chunks."""
        broken, negative, empty = np.zeros((3, len(patterns)), bool)
        real = patterns.dtype.kind == "f"
        whole, whole_squares, telling, power, total = True, real, False, 0.0, 0.0
        for part in chunks(len(patterns), valid.size):
            values = patterns[part].reshape(-1, valid.size)
            values = values if valid.all() else values[:, valid.ravel()]
            broken[part] = ~np.isfinite(values).all(axis=1)
            negative[part] = (values < 0).any(axis=1)
            empty[part] = ~values.any(axis=1)
            if not real or broken.any():
                continue
            whole = whole and _are_whole(values)
            with np.errstate(over="ignore"):
                squares = np.square(values, dtype=np.float64)
            power, total = power + float(squares.sum()), total + float(values.sum(dtype=np.float64))
            if whole_squares:
                squares = squares[squares < LARGEST_TELLING]
                whole_squares = _are_whole(squares)
                telling = telling or bool((squares > 1.5).any())
        n = len(patterns)
        return cls(broken, negative, empty, patterns.dtype, whole, whole_squares and telling, power / n, total / n)

    def problems(self) -> list[str]:
        """Why these patterns cannot be photon counts, one sentence for each reason."""
        found = (
            (self.broken, "NaN or infinite values", "leave them out or mark the pixels as bad in mask"),
            (self.negative, "negative values", "clip them to zero or mark the pixels as bad in mask"),
            (self.empty & self.empty.all(), "nothing but zeros", "a scan without a photon shows nothing"),
        )
        return [
            f"{bad.sum()} of {len(bad)} patterns hold {what} (first: pattern {bad.argmax()}), {way_out}"
            for bad, what, way_out in found
            if bad.any()
        ]

    def domain(self, modes: np.ndarray | None) -> tuple[Domain | None, str]:
        """Counts or amplitude, and the test that decides; None and the way out when no test is conclusive.

        Whole numbers are counts; numbers whose squares are whole are amplitude; otherwise the photons in the mean
        pattern, Σx or Σx², must be those of the probe, Σ|P|², within a factor of 4 for one of the two and not for both.
        """
        if self.dtype.kind != "f":
            return "counts", f"stored as whole numbers, {self.dtype}"
        if self.whole:
            return "counts", "every value is a whole number"
        if self.whole_squares:
            return "amplitude", "every value squared is a whole number"
        if modes is not None:
            photons = float(np.square(np.abs(modes), dtype=np.float64).sum())
            amplitude_fits, counts_fit = (_same_power(mean, photons) for mean in (self.power, self.total))
            if amplitude_fits and not counts_fit:
                return "amplitude", f"Σx² = {self.power:.4g} per pattern fits the probe's {photons:.4g} photons, Σx not"
            if counts_fit and not amplitude_fits:
                return "counts", f"Σx = {self.total:.4g} per pattern fits the probe's {photons:.4g} photons, Σx² not"
        return None, (
            "neither values nor probe tell whether the patterns are photon counts or amplitude = √counts: "
            "add --measurement-domain counts or --measurement-domain amplitude"
        )


def _are_whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers, or the squares of single-precision roots of whole numbers."""
    tolerance = ROUNDING * values * (values < LARGEST_TELLING)
    return bool((np.abs(values - np.rint(values)) <= tolerance).all())


def _same_power(one: float, other: float) -> bool:
    return one <= SAME_POWER * other and other <= SAME_POWER * one


def are_patterns(patterns: np.ndarray, valid: np.ndarray) -> bool:
    stacked = patterns.ndim == 3 and patterns.size > 0 and patterns.dtype.kind in "buif"
    return stacked and valid.shape == patterns.shape[1:] and bool(valid.any())


def problems_of(
    patterns: np.ndarray,
    positions: np.ndarray,
    *,
    nominal: np.ndarray,
    modes: np.ndarray | None,
    valid: np.ndarray,
    obj: np.ndarray | None,
) -> list[str]:
    """All problems except those of the values of the patterns."""
    problems = [
        *_shape_problems(patterns),
        *_position_problems(positions, nominal, n_patterns=len(patterns) if patterns.ndim else 0),
    ]
    if patterns.ndim == 3:
        problems += _probe_problems(modes, patterns.shape[1:]) + _valid_problems(valid, patterns.shape[1:])
    if obj is not None and positions.shape[1:] == (2,):
        problems += _object_problems(obj, positions[: len(patterns)])
    return problems


def propagation_problems(propagation: str, **lengths_m: float | None) -> list[str]:
    """What is wrong with a propagation, or missing: the near field needs all `lengths_m`, finite and above zero."""
    if propagation not in get_args(Propagation):
        return [f"propagation is {propagation!r}: far or near is needed"]
    wrong = [
        f"{name} is {value}" if value is not None else f"no {name}"
        for name, value in lengths_m.items()
        if value is None or not (np.isfinite(value) and value > 0)
    ]
    if propagation == "far" or not wrong:
        return []
    return [f"near field, but {', '.join(wrong)}: Fresnel propagation needs it, in metres"]


def _shape_problems(patterns: np.ndarray) -> list[str]:
    if patterns.dtype.kind not in "buif":
        return [f"the patterns are of type {patterns.dtype}: real numbers are needed, counts or amplitude"]
    if patterns.ndim != 3 or patterns.shape[1] != patterns.shape[2]:
        return [f"the patterns have shape {patterns.shape}: n square patterns (n, N, N) are needed"]
    n = patterns.shape[1]
    problems = [] if len(patterns) else ["there are no patterns"]
    if n % 2 or n < SMALLEST_N:
        problems.append(f"patterns are {n} x {n} pixels: an even N of at least {SMALLEST_N} is needed, crop or pad")
    return problems


def _position_problems(positions: np.ndarray, nominal: np.ndarray, *, n_patterns: int) -> list[str]:
    if positions.ndim != 2 or positions.shape[1] != 2:
        return [f"the positions have shape {positions.shape}: a (y, x) for each pattern, (n, 2), is needed"]
    if len(positions) < n_patterns:
        return [f"{n_patterns} patterns but only {len(positions)} positions: every pattern needs its coordinates"]
    used, problems = positions[:n_patterns], []
    unknown = ~np.isfinite(used).all(axis=1)
    if unknown.any():
        problems.append(
            f"{unknown.sum()} of {len(used)} positions are NaN or infinite (first: pattern {unknown.argmax()}), "
            "leave these patterns out"
        )
    elif len(used) > 1 and (used == used[0]).all():
        problems.append(f"all {len(used)} positions are equal: the probe has to move, check the coordinates")
    if len(nominal) < n_patterns or nominal.shape[1:] != (2,) or not np.isfinite(nominal[:n_patterns]).all():
        problems.append("the nominal (start) positions are NaN or too few: correct them or leave them out")
    return problems


def _object_problems(obj: np.ndarray, positions: np.ndarray) -> list[str]:
    if obj.ndim != 2:
        return [f"the object has shape {obj.shape}: one array (H, W) is needed"]
    height, width = obj.shape
    outside = ((positions < 0) | (positions > (height - 1, width - 1))).any(axis=1)
    if not outside.any():
        return []
    first = int(outside.argmax())
    y, x = positions[first]
    return [
        f"{outside.sum()} of {len(positions)} positions lie outside the object of {height} x {width} pixels (first: "
        f"pattern {first} at y = {y:.6g}, x = {x:.6g}): coordinates in object pixels are needed"
    ]


def _probe_problems(modes: np.ndarray | None, frame: tuple[int, ...]) -> list[str]:
    if modes is None:
        return []
    if modes.ndim != 3 or modes.shape[1:] != frame:
        found = " x ".join(map(str, modes.shape[-2:])) if modes.ndim == 3 else f"of shape {modes.shape}"
        return [f"the probe is {found}, the patterns are {frame[0]} x {frame[1]} pixels: both need the same N"]
    if not np.isfinite(modes).all():
        return ["the probe holds NaN or infinite values: correct it, or leave it out to have it estimated"]
    return [] if modes.any() else ["the probe is zero everywhere: correct it, or leave it out to have it estimated"]


def _valid_problems(valid: np.ndarray, frame: tuple[int, ...]) -> list[str]:
    if valid.shape != frame:
        return [f"the mask has shape {valid.shape}: that of one pattern, {frame}, or of all patterns is needed"]
    return [] if valid.any() else ["the mask leaves no good pixel: 1 marks a good pixel, 0 a bad one"]
