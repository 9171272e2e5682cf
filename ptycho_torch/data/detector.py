"""The detector before it is believed: pixels, values and frames that hold no counts of this scan.

A pixel in the far or near field of a probe that fills no more than its window is never much brighter than all of its
neighbours: that tells hot pixels and cosmic rays from light. Each finding is a sentence, and `--trust-detector` turns
all of it off. Thresholds are those of `benchmarks/detector.py`: no finding in clean scans over dose, size, probe and
object.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from ptycho_torch.data.patterns import chunks
from ptycho_torch.types import Domain

FEWEST = 16
"""Patterns below which only the mask is looked at, and pixels with what no counts can be."""
MOST_CONSTANT = 0.3
"""Share of the pixels from which on constant ones are no fault: patterns without noise of an empty object."""
SPIKE, SPIKE_PHOTONS = 20.0, 30.0
"""A value is no light where it exceeds this many times the third-brightest of its eight neighbours, and that many
photons more."""
USUAL = 0.95
"""… in that pattern, and in this share of the patterns: where few patterns have light, it may come in sharp peaks."""
STEADY = 0.9
"""Share of the patterns with such values from which on a pixel is hot."""
OFTEN = (2, 0.01)
"""… and number and share of the patterns from which on it flickers; fewer are cosmic rays."""
FEW = 4
"""Brightest values of a frame that are left out of its light until it is known whether they are counts."""
RARE_VALUES, RARE_PIXELS = 2e-4, 0.01
"""Shares of values and of flickering pixels from which on they are light: single photons, in units of a gain."""
LIT_PHOTONS = 200.0
"""A pixel without a photon is dead where the third-darkest of its neighbours has this many in all patterns."""
PILED_UP = 8
"""Values at the ceiling, at least, and at least so many times more than there are in a hundredth of the range below."""
CEILING_PHOTONS = 32.0
"""Least ceiling: of few photons, many values are the largest one."""
ODD = 5.0
"""A frame is odd whose light departs from the median by this factor, or its inverse, and by six standard deviations."""
NEAR = (0.5, 2.0)
"""Light over the median of the neighbours of frames in which the beam was odd: behind an opaque part of a specimen the
neighbours are dark, too."""
MOST_ODD = 0.4
"""Share of the frames from which on odd ones are no fault."""
WEAKEST = 0.02
"""Share of the median light below which a frame is left out: with a thousandth of the light, frames that are kept leave
the object around them at a tenth of the correlation, in scans of little overlap."""
DRIFT, DRIFT_SHARE = 0.15, 0.04
"""Least change of the logarithm of the light over the scan, and the least share that it explains of the differences
between a frame and its neighbours in space. In 23 simulated scans a steady beam had shares up to 0.01, in three of them
up to 0.18; one that falls to 40 % had 0.04 at 100 photons per pattern, else 0.06–0.97."""
DRIFT_DEGREE, DRIFT_NEIGHBOURS, DRIFT_STEPS = 2, 6, 5
"""Degree of the drift's polynomial, neighbours of a frame, and steps of the fit. The standard deviation of the drift
that is found, over the true one, was 0.009 in the median of these scans and 0.052 at most; by the trend of
all frames, 0.010 and 0.079."""


@dataclass(eq=False)
class Findings:
    """What a survey found of the patterns `[n, N, N]`."""

    valid: np.ndarray  # bool [N, N], True = measured
    values: np.ndarray | None = None  # bool [n, N, N], True = measured; None: all of the valid pixels
    ceiling: float | None = None  # what the saturated ones of the values not measured hold, in the patterns' own unit
    kept: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))  # bool [n]
    intensities: np.ndarray | None = None  # float32 [n], light of the beam in each frame over its usual one
    drift: np.ndarray | None = None  # float32 [n], the same by a trend that may be the beam's or the specimen's
    notes: list[str] = field(default_factory=list)


# --- pixels that were never measured, before anything else is known ---------------------------------------------------


def never_measured(patterns: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """bool `[N, N]`: pixels that hold NaN, a negative number, the largest of the type, or one same value in every
    pattern, far above the others; and a sentence for each kind."""
    low, high = _extremes(patterns)
    nothing = np.zeros_like(valid)
    if low is None or high is None:
        return nothing, []
    kinds = dict[str, np.ndarray]()
    with np.errstate(invalid="ignore"):
        kinds["NaN"] = np.isnan(low) & np.isnan(high)
        kinds["a negative number"] = high < 0
        if patterns.dtype.kind in "iu":
            most = np.iinfo(patterns.dtype).max
            kinds[f"{most}, the largest number of {patterns.dtype},"] = low == most
        varying = (low != high) & valid & ~np.isnan(low)
        constant = (low == high) & (high > SPIKE * (np.median(high[varying]) if varying.any() else 0))
    if len(patterns) >= FEWEST and constant.mean() < MOST_CONSTANT and varying.any():
        kinds["the same number"] = constant
    notes, seen = list[str](), nothing
    for what, pixels in kinds.items():
        new = pixels & valid & ~seen
        if new.any():
            notes.append(f"{_count(new, 'bad pixel')} ({_where(new)}) hold {what} in every pattern: masked")
            seen = seen | new
    return seen, notes if (valid & ~seen).any() else []


def _extremes(patterns: np.ndarray) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """The least and the largest value of each pixel; NaN where all are."""
    if patterns.ndim != 3 or patterns.dtype.kind not in "iuf" or not patterns.size:
        return None, None
    parts = [patterns[part] for part in chunks(len(patterns), patterns[0].size)]
    low = np.fmin.reduce([np.fmin.reduce(part, axis=0) for part in parts])
    return low, np.fmax.reduce([np.fmax.reduce(part, axis=0) for part in parts])


# --- pixels, values and frames ----------------------------------------------------------------------------------------


def surveyed(
    patterns: np.ndarray,
    positions: np.ndarray,
    valid: np.ndarray,
    *,
    domain: Domain,
    beam: np.ndarray | None = None,
) -> Findings:
    """What is wrong with patterns `[n, N, N]` of a known domain, on their `valid` pixels `[N, N]`.

    `beam` `[N, N]`, the far field of the probe, tells a sharp beam from a hot pixel.
    """
    found = Findings(valid.copy(), kept=np.ones(len(patterns), bool))
    light = _Light.of(patterns, valid, domain)
    _right_way_up(found, light)
    if len(patterns) < FEWEST:
        return found
    _spikes(found, light, beam)
    light.count_again(found)
    _dead(found, light, beam)
    _saturated(found, light)
    _frames(found, light, positions)
    return found


@dataclass(eq=False)
class _Light:
    """Sums over the patterns, from one pass."""

    patterns: np.ndarray
    domain: Domain
    mean: np.ndarray  # float64 [N, N], counts
    most: np.ndarray  # float64 [N, N], the largest count of each pixel
    totals: np.ndarray  # float64 [n], counts of each frame on valid pixels
    most_of_it: np.ndarray  # float64 [n], the same but for the `FEW` largest values, which may be no counts
    quantum: float = np.inf  # the smallest count above zero

    @classmethod
    def of(cls, patterns: np.ndarray, valid: np.ndarray, domain: Domain) -> _Light:
        shape = patterns.shape[1:]
        light = cls(patterns, domain, np.zeros(shape), np.zeros(shape), *np.zeros((2, len(patterns))))
        for part in chunks(len(patterns), patterns[0].size):
            counts = light.counts(part)
            seen = counts[:, valid]
            brightest = np.partition(seen, -FEW, axis=1)[:, -FEW:] if seen.shape[1] > FEW else seen
            light.totals[part] = seen.sum(axis=1, dtype=np.float64)
            light.most_of_it[part] = light.totals[part] - brightest.sum(axis=1, dtype=np.float64)
            light.quantum = min(light.quantum, float(seen.min(where=seen > 0, initial=np.inf)))
            light.mean += counts.sum(axis=0, dtype=np.float64)
            np.maximum(light.most, counts.max(axis=0), out=light.most)
        light.mean /= len(patterns)
        return light

    def counts(self, *index: slice | np.ndarray | int) -> np.ndarray:
        """Counts, with zeros for what is no number."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.array(self.patterns[index], np.float32)
            values[~np.isfinite(values)] = 0
            np.maximum(values, 0, out=values)
            return np.square(values, out=values) if self.domain == "amplitude" else values

    def count_again(self, found: Findings) -> None:
        """The totals of what was found to be light."""
        if found.values is None and not found.notes:
            return
        for part in chunks(len(self.patterns), self.patterns[0].size):
            counts = self.counts(part) * found.valid
            counts = counts if found.values is None else counts * found.values[part]
            self.totals[part] = counts.sum((1, 2), dtype=np.float64)


def _right_way_up(found: Findings, light: _Light) -> None:
    """A mask that leaves out most pixels and nearly all light marks the bad ones with 1."""
    inside, outside = light.mean[found.valid].sum(), light.mean[~found.valid].sum()
    if found.valid.mean() < 0.5 and outside > 4 * inside and np.isfinite(outside):
        found.valid = ~found.valid
        found.notes.append(
            f"the mask leaves out {(found.valid.mean()):.0%} of the pixels and {outside / (inside + outside):.1%} of "
            "the light: it is taken the other way round, 1 marks a bad pixel in it"
        )


def _spikes(found: Findings, light: _Light, beam: np.ndarray | None) -> None:
    """Hot and flickering pixels, and single values by cosmic rays."""
    n, least = len(light.patterns), SPIKE_PHOTONS * max(1.0, light.quantum)
    around = _ranked_neighbour(np.where(found.valid, light.mean, np.inf), 3)  # beside a gap, nothing is known
    suspects = found.valid & (light.most > least + SPIKE * around)
    if beam is not None:
        suspects &= ~(beam > 5 * _ranked_neighbour(beam, 3))
    else:
        middle = slice(len(found.valid) // 2 - 1, len(found.valid) // 2 + 2)
        suspects[middle, middle] = False
    brightness = np.maximum(light.most_of_it / max(float(np.median(light.most_of_it)), 1e-30), 1)
    hot, flickering = np.zeros((2, *found.valid.shape), bool)
    single: list[tuple[np.ndarray, int, int]] = []
    for y, x in np.argwhere(suspects):
        rows, columns = (slice(max(0, at - 1), at + 2) for at in (y, x))
        box = np.where(found.valid[rows, columns], light.counts(slice(None), rows, columns), np.inf)
        own = light.counts(slice(None), int(y), int(x))
        box[:, y - rows.start, x - columns.start] = 0
        third = np.sort(box.reshape(n, -1), axis=1)[:, -3]
        out = own > least + SPIKE * np.maximum(third, np.quantile(third, USUAL) * brightness)
        if out.mean() >= STEADY:
            hot[y, x] = True
        elif out.sum() > max(OFTEN[0], OFTEN[1] * n):
            flickering[y, x] = True
        elif out.any():
            single.append((np.flatnonzero(out), int(y), int(x)))
    values = sum(len(frames) for frames, _, _ in single)
    if values > max(16, RARE_VALUES * light.patterns.size) or flickering.mean() > RARE_PIXELS:
        flickering[:], single, values = False, [], 0
    for pixels, what in ((hot, "hot pixel"), (flickering, "flickering bad pixel")):
        if pixels.any():
            found.notes.append(f"{_count(pixels, what)} ({_where(pixels)}): far above all neighbours, masked")
            found.valid &= ~pixels
    if single:
        _leave_out(found, light, single)
        first = int(min(frames[0] for frames, _, _ in single))
        found.notes.append(
            f"{values} single values far above all neighbours, as by cosmic rays (first: pattern {first}): left out"
        )


def _leave_out(found: Findings, light: _Light, single: list[tuple[np.ndarray, int, int]]) -> None:
    if found.values is None:
        found.values = np.ones(light.patterns.shape, bool)
    for frames, y, x in single:
        found.values[frames, y, x] = False
        series = np.where(found.values[:, y, x], light.counts(slice(None), y, x), 0)
        light.mean[y, x], light.most[y, x] = series.mean(), series.max()


def _dead(found: Findings, light: _Light, beam: np.ndarray | None) -> None:
    """Pixels, and whole rows or columns, without a photon amid light, but for zeros of the beam itself."""
    total = np.where(found.valid, light.mean * len(light.patterns), 0)
    dark = found.valid & (light.most == 0)
    lit = _ranked_neighbour(np.where(found.valid, total, np.inf), 6) >= LIT_PHOTONS
    dead = dark & lit
    if beam is not None:
        dead &= beam > 0.1 * _ranked_neighbour(beam, 6)
    for axis in (0, 1):
        lines = np.flatnonzero((dark | ~found.valid).all(axis=1 - axis) & found.valid.any(axis=1 - axis))
        for line in lines:
            sides = [np.take(total, rows, axis) for rows in _lit_lines(total, int(line), axis)]
            if len(sides) == 2 and (np.minimum(*sides) >= LIT_PHOTONS).mean() >= 0.25:
                np.moveaxis(dead, axis, 0)[line] |= np.moveaxis(dark, axis, 0)[line]
    if dead.any():
        found.notes.append(f"{_count(dead, 'dead pixel')} ({_where(dead)}): no photon amid light, masked")
        found.valid &= ~dead


def _lit_lines(total: np.ndarray, line: int, axis: int) -> list[int]:
    """The nearest lines with light before and after one."""
    lit = np.flatnonzero(total.any(axis=1 - axis))
    return [int(some[at]) for some, at in ((lit[lit < line], -1), (lit[lit > line], 0)) if len(some)]


def _saturated(found: Findings, light: _Light) -> None:
    """Values at a ceiling that many share, also below the largest number of the type."""
    ceiling = light.most[found.valid].max(initial=0)
    at_ceiling = found.valid & (light.most >= ceiling)
    if ceiling < CEILING_PHOTONS or at_ceiling.sum() < 3:
        return
    piled, below = 0, 0
    reached = np.ones(light.patterns.shape, bool) if found.values is None else found.values.copy()
    for part in chunks(len(light.patterns), found.valid.size):
        counts = light.counts(part) * found.valid * reached[part]
        full = counts >= ceiling
        piled, below = piled + int(full.sum()), below + int(((counts >= 0.9 * ceiling) & ~full).sum())
        reached[part] &= ~full
    if piled < PILED_UP * max(1.0, below / 10):
        return
    found.values = reached
    number = light.patterns[:, at_ceiling].max()
    found.ceiling = float(number)
    found.notes.append(
        f"{piled} values are {number:g}, the largest one, and hardly any just below: saturated, taken as that many "
        "at least"
    )


def _frames(found: Findings, light: _Light, positions: np.ndarray) -> None:
    """Frames in which the beam was gone or much brighter, and a drift of the beam."""
    totals = light.totals
    n, usual = len(totals), float(np.median(totals[totals > 0])) if (totals > 0).any() else 0.0
    if usual == 0:
        return
    far = np.abs(totals - usual) > 6 * np.sqrt(usual)
    dark, bright = far & (totals < usual / ODD), far & (totals > usual * ODD)
    factors = np.ones(n)
    for odd, what in ((dark, "dark"), (bright, "bright")):
        frames = _of_the_beam(odd, dark | bright, totals / usual, positions)
        if not frames.any():
            continue
        factors[frames] = totals[frames] / usual
        gone = frames & (factors < WEAKEST)
        found.kept &= ~gone
        ratio = float(np.median(factors[frames]))
        text = f"{_count(frames, f'{what} frame')} ({_runs(frames)}) with {ratio:.2g} x the light of their neighbours"
        found.notes.append(f"{text}: {'left out' if gone.all() or gone[frames].all() else 'scaled'}")
    if (factors != 1).any():
        found.intensities = factors.astype(np.float32)
    usual_ones = np.flatnonzero((factors == 1) & (totals > 0))
    found.drift = _drift(np.log(totals[usual_ones]), positions[usual_ones], usual_ones / n, np.arange(n) / n)


def _of_the_beam(odd: np.ndarray, all_odd: np.ndarray, light: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Which odd frames `[n]` are the beam's fault: those of runs whose nearest frames that are not odd hold the usual
    light. `light` is relative to the median."""
    if not odd.any() or all_odd.mean() > MOST_ODD:
        return np.zeros_like(odd)
    others = np.flatnonzero(~all_odd)
    tree = cKDTree(positions[others])
    step = float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))
    distance, nearest = tree.query(positions[odd])
    around = light[others[nearest]]
    is_fault, edges = np.zeros_like(odd), np.flatnonzero(np.diff(np.concatenate([[0], odd.astype(int), [0]])))
    place = np.cumsum(odd) - 1
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        run = place[np.arange(start, stop)]
        close = distance[run] <= 1.5 * max(step, 1e-9)
        usual = (around[run] >= NEAR[0]) & (around[run] <= NEAR[1])
        if close.any() and usual[close].mean() > 0.6:
            is_fault[start:stop] = True
    return is_fault


def _drift(light: np.ndarray, positions: np.ndarray, times: np.ndarray, at: np.ndarray) -> np.ndarray | None:
    """The intensities `at` some times, at most 1, by what frames differ from their neighbours in space, in logarithms
    of their light; None where time explains too little of it.

    Neighbours see much the same specimen, at different times: their differences hold the drift, not the specimen's
    own trend. The sum of absolute differences is minimised, so that edges of the specimen count little.
    """
    if len(light) < 2 * FEWEST:
        return None
    near = cKDTree(positions).query(positions, k=DRIFT_NEIGHBOURS + 1)[1][:, 1:]
    differences = (light[near] - light[:, None]).ravel()
    powers = times[:, None] ** np.arange(1, DRIFT_DEGREE + 1)
    changes = (powers[near] - powers[:, None]).reshape(-1, DRIFT_DEGREE)
    weights = np.ones_like(differences)
    for _ in range(DRIFT_STEPS):
        coefficients = np.linalg.lstsq(changes * weights[:, None], differences * weights, rcond=None)[0]
        rest = np.abs(differences - changes @ coefficients)
        weights = 1 / np.sqrt(np.maximum(rest, max(float(np.median(rest)), 1e-12)))
    drift = at[:, None] ** np.arange(1, DRIFT_DEGREE + 1) @ coefficients
    if np.ptp(drift) < DRIFT or rest.sum() > (1 - DRIFT_SHARE) * np.abs(differences).sum():
        return None
    return np.exp(drift - drift.max()).astype(np.float32)


def _ranked_neighbour(image: np.ndarray, rank: int) -> np.ndarray:
    """The `rank`-brightest of the eight neighbours of each pixel `[N, N]`; pixels beyond the edge are dark."""
    padded = np.pad(image, 1)
    height, width = image.shape
    around = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return np.sort(np.stack(around), axis=0)[-rank]


def _count(found: np.ndarray, what: str) -> str:
    count = int(found.sum())
    return f"{count} {what}{'' if count == 1 else 's'}"


def _where(pixels: np.ndarray) -> str:
    places = np.argwhere(pixels)
    return ", ".join(f"({y}, {x})" for y, x in places[:3]) + (", …" if len(places) > 3 else "")


def _runs(frames: np.ndarray) -> str:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], frames.astype(int), [0]])))
    runs = [f"{a}" if b - a == 1 else f"{a}–{b - 1}" for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return ", ".join(runs[:6]) + (", …" if len(runs) > 6 else "")
