"""Ways in which a scan goes wrong, each with the causes that may be named for it.

    changed = WRONG["flip x"].change(arrays, rng)

`arrays` holds counts float32 `[n, N, N]`, positions float64 `[n, 2]` (y, x) in object pixels, probe complex64
`[mode, N, N]` in √photons, mask bool `[N, N]` (True = measured) and pixel_size_m. A change returns new arrays and
leaves the given ones alone; None, where this scan would stay right (a real probe conjugated).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptycho_torch.data.scan import Scan
from ptycho_torch.verdict.causes import Cause
from ptycho_torch.verdict.hypotheses import is_its_twin

Arrays = dict[str, Any]
Change = Callable[[Arrays, np.random.Generator], Arrays | None]
CEILING = 65535.0
PIXEL_SIZE_M = 2e-8
"""Of the object, where the scan knows none: positions in a unit of length need it."""


@dataclass(frozen=True)
class Wrong:
    """A change of a scan, the causes that explain it, and words (a regular expression) of the line that tells of it."""

    change: Change
    causes: frozenset[str]
    told: str = ""


def arrays_of(scan: Scan) -> Arrays:
    """The arrays of a scan, its probe as it is."""
    return {
        "counts": scan.counts(np.arange(len(scan))),
        "positions": scan.positions.copy(),
        "probe": scan.probe.copy(),
        "mask": scan.valid.copy(),
        "pixel_size_m": scan.pixel_size_m,
    }


def as_scan(arrays: Arrays, **known: Any) -> Scan:
    """A checked scan of such arrays, in counts."""
    return Scan.from_arrays(
        arrays["counts"],
        arrays["positions"],
        probe=arrays["probe"],
        valid=arrays["mask"],
        domain="counts",
        pixel_size_m=arrays["pixel_size_m"],
        **known,
    )


def moved(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Positions changed by a function of all of them."""
    return lambda arrays, _: {**arrays, "positions": np.ascontiguousarray(change(arrays["positions"]))}


def mirrored(axes: tuple[int, ...]) -> Change:
    """Positions mirrored about the middle of the scan."""

    def change(positions: np.ndarray) -> np.ndarray:
        mirrored = positions.copy()
        for axis in axes:
            mirrored[:, axis] = positions[:, axis].min() + positions[:, axis].max() - positions[:, axis]
        return mirrored

    return moved(change)


def point_reflected(arrays: Arrays, rng: np.random.Generator) -> Arrays | None:
    """Positions mirrored in y and x; None where the twin object explains the patterns as well."""
    return None if is_its_twin(arrays["probe"]) else mirrored((0, 1))(arrays, rng)


def in_unit(unit_m: float) -> Change:
    """Positions in a unit of length, as if they were pixels; the pixel size is in the file."""

    def change(arrays: Arrays, _: np.random.Generator) -> Arrays:
        pixel = arrays["pixel_size_m"] or PIXEL_SIZE_M
        return {**arrays, "positions": arrays["positions"] * (pixel / unit_m), "pixel_size_m": pixel}

    return change


def turned(degrees: float) -> Change:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return moved(lambda positions: (positions - positions.mean(0)) @ turn.T + positions.mean(0))


def lagging(arrays: Arrays, _: np.random.Generator) -> Arrays:
    """Pattern j was taken at position j + 1: the first position has no pattern, the last one is there twice."""
    positions = arrays["positions"]
    return {**arrays, "positions": np.concatenate([positions[:1], positions[:-1]])}


def losing_a_frame(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    """A frame between a quarter and three quarters of the scan got lost: later patterns have the position before."""
    counts, positions = arrays["counts"], arrays["positions"]
    lost = int(rng.integers(len(counts) // 4, 3 * len(counts) // 4))
    return {**arrays, "counts": np.delete(counts, lost, axis=0), "positions": positions[:-1].copy()}


def shuffled(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    return {**arrays, "positions": rng.permutation(arrays["positions"])}


def noise(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    """Photon noise of the mean pattern, nothing else."""
    mean = arrays["counts"].mean(0, dtype=np.float64)
    return {**arrays, "counts": rng.poisson(mean, arrays["counts"].shape).astype(np.float32)}


def seen(change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    """Counts changed by a function of a copy of them."""
    return lambda arrays, rng: {**arrays, "counts": change(arrays["counts"].copy(), rng)}


def with_probe(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Another probe of the same power; None where it is the same up to a phase."""

    def changed(arrays: Arrays, _: np.random.Generator) -> Arrays | None:
        given = arrays["probe"]
        other = change(given)
        likeness = abs(np.vdot(given, other)) / (np.linalg.norm(given) * np.linalg.norm(other))
        return None if likeness > 0.9 else {**arrays, "probe": other.astype(np.complex64)}

    return changed


def transposed(arrays: Arrays, _: np.random.Generator) -> Arrays:
    turned = {key: np.ascontiguousarray(arrays[key].swapaxes(-1, -2)) for key in ("counts", "probe", "mask")}
    return {**arrays, **turned}


def detector_mirrored(axis: int) -> Change:
    def change(arrays: Arrays, _: np.random.Generator) -> Arrays:
        """Patterns mirrored about index N//2."""
        return {**arrays, **{key: np.roll(np.flip(arrays[key], axis), 1, axis) for key in ("counts", "mask")}}

    return change


def off_centre(counts: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.roll(counts, (3, -5), axis=(1, 2))


def gap(counts: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """A cross of three rows and two columns that nobody masked."""
    n = counts.shape[-1]
    counts[:, n * 5 // 8 : n * 5 // 8 + 3] = CEILING
    counts[:, :, n * 5 // 16 : n * 5 // 16 + 2] = CEILING
    return counts


def hot_pixels(counts: np.ndarray, _: np.random.Generator) -> np.ndarray:
    n, value = counts.shape[-1], max(1e5, 10 * float(counts.max()))
    counts[:, n // 5, n // 4] = value
    counts[:, n * 3 // 5, n * 4 // 5] = 0.7 * value
    return counts


def cosmic_rays(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    counts.reshape(-1)[rng.choice(counts.size, 12, replace=False)] = max(1e6, 10 * float(counts.max()))
    return counts


def dumped(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The beam gone for a sixth of the frames, in a row, but for a thousandth of its light."""
    length = len(counts) // 6
    first = int(rng.integers(len(counts) // 4, len(counts) // 2))
    counts[first : first + length] = rng.poisson(counts[first : first + length] * 1e-3)
    return counts


def two_bright(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    counts[rng.choice(np.arange(len(counts) // 4, 3 * len(counts) // 4), 2, replace=False)] *= 40
    return counts


def drifting(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light that falls to 40 % over the scan, thinned as photons are."""
    factor = np.linspace(1, 0.4, len(counts))[:, None, None]
    return rng.binomial(np.rint(counts).astype(np.int64), factor).astype(np.float32)


def saturated(counts: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return np.minimum(counts, np.rint(counts.max() / 2))


def with_background(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return counts + rng.poisson(1.0, counts.shape).astype(np.float32)


def jittered(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    return {**arrays, "positions": arrays["positions"] + rng.normal(0, 10, arrays["positions"].shape)}


def refocused(probe: np.ndarray) -> np.ndarray:
    """Half the defocus; where there is none, a defocus that doubles the width.

    The mean square radius of F⁻¹[F[P]·exp(−i c f²)] is a parabola in c, so three values of c give the focus.
    """
    n = probe.shape[-1]
    line = np.arange(n) - n // 2
    f2 = np.square(np.hypot(line[:, None], line) / n)
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe, axes=(-2, -1))), axes=(-2, -1))

    def with_curvature(c: float) -> np.ndarray:
        wave = np.fft.ifftshift(spectrum * np.exp(-1j * c * f2), axes=(-2, -1))
        return np.fft.fftshift(np.fft.ifft2(wave), axes=(-2, -1))

    def spread(c: float) -> float:
        light = np.square(np.abs(with_curvature(c))).sum(0)
        return float((light * (line[:, None] ** 2 + line**2)).sum() / light.sum())

    unit = float(n)
    less, here, more = spread(-unit), spread(0.0), spread(unit)
    bend = (less + more - 2 * here) / (2 * unit**2)
    focus = (less - more) / (4 * unit * bend)
    if bend * focus**2 < 0.25 * here:  # in focus
        return with_curvature(float(np.sqrt(3 * here / bend)))
    return with_curvature(focus / 2)


def _one(change: Change, *causes: Cause, told: str = "") -> Wrong:
    return Wrong(change, frozenset(map(str, causes)), told)


SWAPPED = (Cause.SWAP_AXES, Cause.DETECTOR_TRANSPOSE)
WRONG: dict[str, Wrong] = {
    "flip x": _one(mirrored((1,)), Cause.FLIP_X, Cause.DETECTOR_FLIP_X),
    "flip y": _one(mirrored((0,)), Cause.FLIP_Y, Cause.DETECTOR_FLIP_Y),
    "flip xy": _one(point_reflected, Cause.FLIP_XY, Cause.DETECTOR_FLIP_XY),
    "swap axes": _one(moved(lambda positions: positions[:, ::-1]), *SWAPPED),
    "transpose detector": _one(transposed, *SWAPPED),
    "flip detector": _one(detector_mirrored(-2), Cause.DETECTOR_FLIP_Y, Cause.FLIP_Y),
    "metres": _one(in_unit(1.0), Cause.UNITS, told="taken to be in"),
    "micrometres": _one(in_unit(1e-6), Cause.UNITS, told="taken to be in"),
    "nanometres": _one(in_unit(1e-9), Cause.UNITS, told="taken to be in"),
    "tenth": _one(moved(lambda positions: 0.1 * positions), Cause.UNITS),
    "lag": _one(lagging, Cause.LAG),
    "lost frame": _one(losing_a_frame, Cause.LAG),
    "shuffled": _one(shuffled, Cause.NO_RELATION),
    "noise": _one(noise, Cause.NO_RELATION),
    "off centre": _one(seen(off_centre), Cause.CENTRE, told="to the centre"),
    "rotation": _one(turned(30.0), Cause.ROTATION),
    "gap": _one(seen(gap), Cause.BAD_PIXELS, told="bad pixel"),
    "hot pixels": _one(seen(hot_pixels), Cause.BAD_PIXELS, told="hot pixel|bad pixel"),
    "cosmic rays": _one(seen(cosmic_rays), Cause.BAD_PIXELS, told="single value"),
    "beam dump": _one(seen(dumped), Cause.INTENSITIES, told="dark frame"),
    "bright frames": _one(seen(two_bright), Cause.INTENSITIES, told="bright frame"),
    "drift": _one(seen(drifting), Cause.INTENSITIES, told="changes steadily"),
    "saturation": _one(seen(saturated), Cause.SATURATION, told="saturated"),
    "background": _one(seen(with_background), Cause.BACKGROUND),
    "wrong probe": _one(with_probe(refocused), Cause.PROBE),
    "conjugated probe": _one(with_probe(np.conj), Cause.PROBE, Cause.FLIP_XY, Cause.DETECTOR_FLIP_XY),
    "jitter": _one(jittered, Cause.POSITIONS, Cause.NO_RELATION),
}
"""Where orientations of positions, detector and probe are equivalent, any of them may be named."""
TWINS = {
    Cause.FLIP_X: Cause.FLIP_Y,
    Cause.DETECTOR_FLIP_X: Cause.DETECTOR_FLIP_Y,
    Cause.SWAP_AXES: Cause.SWAP_FLIP_XY,
    Cause.SWAP_FLIP_X: Cause.SWAP_FLIP_Y,
}
"""What is the same under a probe that is its own twin."""


def accepted(name: str, probe: np.ndarray) -> frozenset[str]:
    """The causes that explain this change of a scan with this probe."""
    causes = WRONG[name].causes
    if not is_its_twin(probe):
        return causes
    pairs = (*TWINS.items(), *((twin, one) for one, twin in TWINS.items()))
    return causes | {str(twin) for one, twin in pairs if one in causes}
