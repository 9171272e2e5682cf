"""A scan: patterns, where the probe stood, and what is known of probe and object. The front door for data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from ptycho_torch.config import Domain
from ptycho_torch.errors import DataError, UsageError

SMALLEST_N = 16
CHUNK_VALUES = 2**20
"""Pixels that are looked at together, so that a pass over a scan takes little memory beyond the scan."""
ROUNDING = 2 * float(np.finfo(np.float32).eps)
"""Relative error of the square of a single-precision number."""
LARGEST_TELLING = 0.05 / ROUNDING
"""Above this, the square of a single-precision number doesn't tell whether it is meant to be whole."""
SAME_POWER = 4.0
"""Patterns and probe count the same photons when they agree within this factor."""


@dataclass(frozen=True, eq=False)
class Scan:
    """Diffraction patterns with positions, probe and detector mask; made by `read_scan` or `Scan.from_arrays`."""

    patterns: np.ndarray  # [n, N, N] in the stored type, zero frequency at N//2, in `domain`
    positions: np.ndarray  # float64 [n, 2] (y, x), object pixels: the object index that meets index N//2 of the probe
    nominal_positions: np.ndarray  # float64 [n, 2] (y, x), object pixels, as the stage was told
    probe: np.ndarray  # complex64 [mode, N, N]
    valid: np.ndarray  # bool [N, N], True = measured
    domain: Domain  # what `patterns` holds: counts, or amplitude = √counts
    domain_reason: str = "given by the caller"  # how that is known
    probe_origin: str = "given by the caller"
    probe_is_guess: bool = False
    obj: np.ndarray | None = None  # complex64 [H, W], the truth of a simulation, or a reference
    pixel_size_m: float | None = None  # of the object
    wavelength_m: float | None = None
    nphotons: float | None = None  # photons in the mean pattern, as declared
    source: Path = Path("arrays in memory")
    digest: str = ""  # sha256 of the file
    notes: tuple[str, ...] = ()

    @classmethod
    def from_arrays(
        cls,
        patterns: ArrayLike,
        positions: ArrayLike,
        *,
        probe: ArrayLike | None = None,
        domain: Domain | None = None,
        nominal_positions: ArrayLike | None = None,
        valid: ArrayLike | None = None,
        obj: ArrayLike | None = None,
        **known: Any,
    ) -> Scan:
        """A checked scan from patterns [n, N, N] and positions [n, 2] (y, x) in object pixels.

        A `probe` [N, N] or [mode, N, N] that is left out is guessed from the mean pattern; a `domain` that is left out
        is decided by a stated test. `known` are further fields of Scan. Raises DataError with all problems in one line.
        """
        if domain is not None and domain not in get_args(Domain):
            raise UsageError(f"the measurement domain is {domain!r}: counts or amplitude is needed")
        stack, modes, obj = np.asarray(patterns), as_modes(probe), None if obj is None else np.asarray(obj)
        good = np.ones(stack.shape[-2:], bool) if valid is None else np.asarray(valid, bool)
        places = np.asarray(positions, np.float64)
        nominal = places if nominal_positions is None else np.asarray(nominal_positions, np.float64)
        problems = _problems(stack, places, nominal=nominal, modes=modes, valid=good, obj=obj)
        survey = Survey.of(stack, good) if _are_patterns(stack, good) else None
        problems += survey.problems() if survey else []
        if domain is None and survey and not survey.problems():
            domain, known["domain_reason"] = survey.domain(modes)
            problems += [] if domain else [known["domain_reason"]]
        if problems or domain is None:
            raise DataError(f"{known.get('source', cls.source)}: {'; '.join(problems)}")
        if len(places) > len(stack):
            note = f"{len(places)} positions for {len(stack)} patterns: the first {len(stack)} are used"
            known["notes"] = (*known.get("notes", ()), note)
        scan = cls(
            patterns=stack,
            positions=places[: len(stack)].copy(),
            nominal_positions=nominal[: len(stack)].copy(),
            probe=np.zeros((0, *good.shape), np.complex64) if modes is None else modes,
            valid=good,
            domain=domain,
            obj=None if obj is None else obj.astype(np.complex64),
            **known,
        )
        return scan.with_guessed_probe() if modes is None else scan

    def __len__(self) -> int:
        return len(self.patterns)

    @property
    def n(self) -> int:
        """N, the side of a pattern in pixels."""
        return self.patterns.shape[-1]

    def counts(self, index: Any) -> np.ndarray:
        """Photons on each pixel of some patterns, float32 [b, N, N]; 0 on pixels that were not measured."""
        measured = self._measured(index)
        return np.square(measured, out=measured) if self.domain == "amplitude" else measured

    def amplitude(self, index: Any) -> np.ndarray:
        """√counts of some patterns, float32 [b, N, N]; 0 on pixels that were not measured."""
        measured = self._measured(index)
        return np.sqrt(measured, out=measured) if self.domain == "counts" else measured

    def _measured(self, index: Any) -> np.ndarray:
        with np.errstate(over="ignore", invalid="ignore"):  # what a dead pixel holds need not fit
            measured = self.patterns[index].astype(np.float32)
        measured[..., ~self.valid] = 0
        return measured

    def mean_counts(self, index: np.ndarray | None = None) -> np.ndarray:
        """The mean pattern, float64 [N, N], in photons."""
        chosen = np.arange(len(self)) if index is None else np.asarray(index)
        total = np.zeros((self.n, self.n))
        for part in _chunks(len(chosen), self.n**2):
            total += self.counts(chosen[part]).sum(axis=0, dtype=np.float64)
        return total / len(chosen)

    def mean_photons(self, index: np.ndarray | None = None) -> float:
        """Photons in the mean pattern: the mean over patterns of Σ counts over measured pixels."""
        return float(self.mean_counts(index).sum())

    def subset(self, index: np.ndarray) -> Scan:
        """The scan of some of its patterns."""
        return replace(
            self,
            patterns=self.patterns[index],
            positions=self.positions[index],
            nominal_positions=self.nominal_positions[index],
        )

    def with_guessed_probe(self) -> Scan:
        """This scan with a probe made from its mean pattern, marked as a guess."""
        import torch

        from ptycho_torch.physics.probe import guess_probe

        probe = guess_probe(torch.from_numpy(self.mean_counts().astype(np.float32))).numpy().astype(np.complex64)
        note = "no probe is given: it is guessed from the mean pattern, a measured probe gives a better picture"
        origin = "guessed from the mean pattern"
        return replace(self, probe=probe, probe_origin=origin, probe_is_guess=True, notes=(*self.notes, note))

    def facts(self) -> dict[str, str]:
        """What a reader of the results wants to know of the scan, in words."""
        modes = f"{len(self.probe)} mode{'s' if len(self.probe) > 1 else ''}"
        facts = {
            "scan": str(self.source),
            "patterns": f"{len(self)} of {self.n} x {self.n} pixels",
            "measurement domain": f"{self.domain} ({self.domain_reason})",
            "probe": f"{modes}, {self.probe_origin}",
        }
        if not self.valid.all():
            facts["pixels not measured"] = str(int((~self.valid).sum()))
        if self.obj is not None:
            facts["object in the file"] = f"{self.obj.shape[0]} x {self.obj.shape[1]} pixels, for comparison only"
        if self.pixel_size_m is not None:
            facts["object pixel"] = f"{self.pixel_size_m * 1e9:.4g} nm"
        if self.wavelength_m is not None:
            facts["wavelength"] = f"{self.wavelength_m * 1e9:.4g} nm"
        return facts

    def describe(self) -> tuple[str, ...]:
        """The facts in one line, then the notes, for people to read before a run."""
        name, *facts = self.facts().items()
        return (f"{name[1]}: " + "; ".join(f"{what}: {value}" for what, value in facts), *self.notes)


def as_modes(probe: ArrayLike | None) -> np.ndarray | None:
    """A probe [N, N], [N, N, 1] or [mode, N, N], real or complex, as complex64 [mode, N, N]."""
    if probe is None:
        return None
    modes = np.asarray(probe)
    if modes.ndim == 3 and modes.shape[-1] == 1:
        modes = modes[..., 0]
    return (modes[None] if modes.ndim == 2 else modes).astype(np.complex64)


@dataclass(frozen=True, eq=False)
class Survey:
    """What one pass over the measured pixels of all patterns finds."""

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
        for part in _chunks(len(patterns), valid.size):
            values = patterns[part].reshape(-1, valid.size)
            values = values if valid.all() else values[:, valid.ravel()]
            broken[part] = ~np.isfinite(values).all(axis=1)
            negative[part] = (values < 0).any(axis=1)
            empty[part] = ~values.any(axis=1)
            if not real or broken.any():
                continue
            whole = whole and _are_whole(values)
            squares = np.square(values, dtype=np.float64)
            power, total = power + float(squares.sum()), total + float(values.sum(dtype=np.float64))
            if whole_squares:
                squares = squares[squares < LARGEST_TELLING]
                whole_squares = _are_whole(squares)
                telling = telling or bool((squares > 1.5).any())
        n = len(patterns)
        return cls(broken, negative, empty, patterns.dtype, whole, whole_squares and telling, power / n, total / n)

    def problems(self) -> list[str]:
        """Why these patterns can't be photons, a sentence for each reason."""
        found = (
            (self.broken, "NaN or infinite values", "leave them out or mark the pixels as bad in mask"),
            (self.negative, "negative values", "clip them to zero or mark the pixels as bad in mask"),
            (self.empty, "nothing but zeros", "leave them out together with their positions"),
        )
        return [
            f"{bad.sum()} of {len(bad)} patterns hold {what} (first: pattern {bad.argmax()}), {way_out}"
            for bad, what, way_out in found
            if bad.any()
        ]

    def domain(self, modes: np.ndarray | None) -> tuple[Domain | None, str]:
        """Counts or amplitude, and the test that says so; None and what to do about it when no test can tell.

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
                return "amplitude", f"Σx² = {self.power:.4g} a pattern fits the probe's {photons:.4g} photons, Σx not"
            if counts_fit and not amplitude_fits:
                return "counts", f"Σx = {self.total:.4g} a pattern fits the probe's {photons:.4g} photons, Σx² not"
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


def _chunks(n_patterns: int, pixels: int) -> Iterator[slice]:
    step = max(1, CHUNK_VALUES // max(1, pixels))
    return (slice(start, start + step) for start in range(0, n_patterns, step))


def _are_patterns(patterns: np.ndarray, valid: np.ndarray) -> bool:
    stacked = patterns.ndim == 3 and patterns.size > 0 and patterns.dtype.kind in "buif"
    return stacked and valid.shape == patterns.shape[1:] and bool(valid.any())


def _problems(
    patterns: np.ndarray,
    positions: np.ndarray,
    *,
    nominal: np.ndarray,
    modes: np.ndarray | None,
    valid: np.ndarray,
    obj: np.ndarray | None,
) -> list[str]:
    """What doesn't fit together, apart from the values of the patterns."""
    problems = [
        *_shape_problems(patterns),
        *_position_problems(positions, nominal, n_patterns=len(patterns) if patterns.ndim else 0),
    ]
    if patterns.ndim == 3:
        problems += _probe_problems(modes, patterns.shape[1:]) + _valid_problems(valid, patterns.shape[1:])
    if obj is not None and positions.shape[1:] == (2,):
        problems += _object_problems(obj, positions[: len(patterns)])
    return problems


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
        return [f"the object has shape {obj.shape}: one picture (H, W) is needed"]
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
        return ["the probe holds NaN or infinite values: correct it, or leave it out to have it guessed"]
    return [] if modes.any() else ["the probe is zero everywhere: correct it, or leave it out to have it guessed"]


def _valid_problems(valid: np.ndarray, frame: tuple[int, ...]) -> list[str]:
    if valid.shape != frame:
        return [f"the mask has shape {valid.shape}: that of one pattern, {frame}, is needed"]
    return [] if valid.any() else ["the mask leaves no good pixel: 1 marks a good pixel, 0 a bad one"]
