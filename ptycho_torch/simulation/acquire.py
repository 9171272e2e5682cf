"""A simulated scan: from object, probe and positions to photon counts, by the forward model of the package."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ptycho_torch.errors import UsageError
from ptycho_torch.simulation.objects import OBJECTS
from ptycho_torch.simulation.probes import FULL_FIELD, PROBES, make_probe
from ptycho_torch.simulation.scan_paths import SCAN_PATHS

if TYPE_CHECKING:
    from ptycho_torch.physics.propagation import Propagator

MARGIN_PX = 4  # object pixels outside all windows, on every side
BATCH = 64


@dataclass(frozen=True)
class NearFieldGeometry:
    """The lengths of Fresnel propagation: effective distance, wavelength, and effective pixel."""

    distance_m: float
    wavelength_m: float = 1e-10
    pixel_size_m: float = 1e-7

    @property
    def propagator(self) -> Propagator:
        """The propagation over this distance."""
        from ptycho_torch.physics.propagation import near_field

        return near_field(wavelength_m=self.wavelength_m, distance_m=self.distance_m, pixel_m=self.pixel_size_m)

    def lengths_m(self) -> dict[str, float]:
        """The lengths by the names that a scan has for them."""
        return {
            "propagation_distance_m": self.distance_m,
            "pixel_size_m": self.pixel_size_m,
            "wavelength_m": self.wavelength_m,
        }

    def longest_m(self, n: int) -> float:
        """The longest distance N·pixel²/λ: beyond, the highest frequencies leave the periodic window and re-enter
        it."""
        return n * self.pixel_size_m**2 / self.wavelength_m


@dataclass(frozen=True, eq=False)
class SimulatedScan:
    """Patterns with the truth behind them."""

    amplitude: np.ndarray  # float32 [n, N, N], √counts; far field: zero frequency at N//2, near field: natural layout
    positions: np.ndarray  # float64 [n, 2] (y, x), object pixels, where the probe was
    nominal_positions: np.ndarray  # float64 [n, 2] (y, x), object pixels, before jitter
    probe: np.ndarray  # complex64 [mode, N, N], √photons
    obj: np.ndarray  # complex64 [H, W], transmission
    valid: np.ndarray  # bool [N, N], True = measured
    photons: float  # mean photons per pattern, as requested
    realised_photons: float  # mean photons per pattern, as counted
    seed: int | None = None
    near: NearFieldGeometry | None = None  # None: far field

    def __len__(self) -> int:
        return len(self.amplitude)

    def save(self, path: str | Path) -> None:
        """Write the scan NPZ, whole or not at all; equal scans give equal bytes."""
        from ptycho_torch.data.formats.npz import write_scan_npz

        write_scan_npz(path, self.as_npz())

    def as_npz(self) -> dict[str, np.ndarray]:
        """The keys and arrays of the scan NPZ: amplitude domain, positions (x = column, y = row), truth, dose, and the
        geometry of a near field."""
        arrays = {
            "diff3d": self.amplitude,
            "xcoords": self.positions[:, 1].copy(),
            "ycoords": self.positions[:, 0].copy(),
            "xcoords_start": self.nominal_positions[:, 1].copy(),
            "ycoords_start": self.nominal_positions[:, 0].copy(),
            "probeGuess": self.probe[0] if len(self.probe) == 1 else self.probe,
            "objectGuess": self.obj,
            "scan_index": np.zeros(len(self), np.int64),
            "mask": self.valid.astype(np.uint8),
            "nphotons": np.array(self.photons, np.float64),
            "realised_photons": np.array(self.realised_photons, np.float64),
            "measurement_domain": np.array("amplitude"),
            "seed": np.array(-1 if self.seed is None else self.seed, np.int64),
        }
        if self.near is None:
            return arrays
        lengths = {name: np.array(length, np.float64) for name, length in self.near.lengths_m().items()}
        return arrays | {"propagation": np.array("near")} | lengths


def simulate_scan(
    *,
    object_kind: str = "natural",
    probe_kind: str | None = None,
    modes: int = 1,
    scan_path: str | None = None,
    n: int = 64,
    positions: int = 1600,
    aspect: float = 1.0,
    step_px: float = 7.6,
    jitter_px: float = 1.0,
    photons: float = 1e5,
    noise: bool = True,
    seed: int = 0,
    near: NearFieldGeometry | None = None,
) -> SimulatedScan:
    """A scan of a made-up object: `positions` patterns of n × n pixels with `photons` in the mean pattern.

    `aspect` is the height of the field over its width, `jitter_px` the largest random move of a stop in y and in x.
    Object, path and noise have random streams of their own, so neither dose nor noise changes the object.
    With `near` the detector stands in the near field, the probe fills the window ("full-field") and the path is a
    spiral, unless others are named; in the far field these are "defocus" and "raster".
    Raises UsageError for an impossible value.
    """
    probe_kind = probe_kind or ("defocus" if near is None else "full-field")
    scan_path = scan_path or ("raster" if near is None else "spiral")
    _check(object_kind, probe_kind, scan_path, modes=modes, n=n, positions=positions, seed=seed)
    _check_ranges(aspect=aspect, step_px=step_px, jitter_px=jitter_px, photons=photons)
    _check_propagation(near, probe_kind, n)
    for_object, for_path, for_noise = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3))
    nominal = SCAN_PATHS[scan_path](positions, step_px=step_px, aspect=aspect, rng=for_path)
    stops = nominal + for_path.uniform(-jitter_px, jitter_px, size=nominal.shape)
    offset = n // 2 + MARGIN_PX - stops.min(axis=0)
    return acquire(
        OBJECTS[object_kind](object_shape(stops + offset, n), rng=for_object),
        make_probe(probe_kind, n=n, modes=modes),
        positions=stops + offset,
        nominal_positions=nominal + offset,
        photons=photons,
        noise=noise,
        rng=for_noise,
        seed=seed,
        near=near,
    )


def acquire(
    obj: np.ndarray,
    probe: np.ndarray,
    *,
    positions: np.ndarray,
    nominal_positions: np.ndarray | None = None,
    photons: float,
    noise: bool,
    rng: np.random.Generator,
    seed: int | None = None,
    near: NearFieldGeometry | None = None,
) -> SimulatedScan:
    """Patterns of a given object, probe [mode, N, N] and positions (y, x), the probe scaled to the wanted dose.

    The scale makes the mean over patterns of Σ expected counts equal to `photons`; the noise is Poisson's.
    Raises UsageError when a window leaves the object.
    """
    obj, positions, n = np.asarray(obj, np.complex64), np.asarray(positions, np.float64), probe.shape[-1]
    whole = np.floor(positions + 0.5).astype(int)
    first, behind = whole.min(axis=0) - n // 2, whole.max(axis=0) - n // 2 + n
    if (first < 0).any() or (behind > obj.shape).any():
        span = f"{first.tolist()} to {behind.tolist()}"
        raise UsageError(f"windows of {n} px span {span}, the object has {obj.shape}: move the positions inside")
    counts = np.empty((len(positions), n, n), np.float32)
    for part, intensity in _expected_counts(obj, probe, positions, near):
        counts[part] = intensity
    factor = photons / counts.sum(axis=(1, 2), dtype=np.float64).mean()
    realised = _expose(counts, factor=factor, rng=rng if noise else None)
    return SimulatedScan(
        amplitude=np.sqrt(counts, out=counts),
        positions=positions,
        nominal_positions=positions if nominal_positions is None else np.asarray(nominal_positions, np.float64),
        probe=(np.sqrt(factor) * probe).astype(np.complex64),
        obj=obj,
        valid=np.ones((n, n), bool),
        photons=float(photons),
        realised_photons=realised,
        seed=seed,
        near=near,
    )


def object_shape(positions: np.ndarray, n: int) -> tuple[int, int]:
    """The smallest object [H, W] that holds every window and the margin, with as much room in front as behind."""
    front = np.floor(positions.min(axis=0) + 0.5)
    height, width = np.floor(positions.max(axis=0) + 0.5) + front - n // 2 + n - n // 2
    return int(height), int(width)


def _expected_counts(
    obj: np.ndarray, probe: np.ndarray, positions: np.ndarray, near: NearFieldGeometry | None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Σ_m |propagate(P_m(r − fraction_j) · O(r + whole_j))|² for batches of patterns, in double precision.

    Whole pixels move the window, the rest of a position moves the probe, so the object is never interpolated.
    """
    import torch

    from ptycho_torch.forward import Exposure, Forward

    transmission = torch.from_numpy(obj.astype(np.complex128))
    light = torch.from_numpy(probe.astype(np.complex128))
    places = torch.from_numpy(np.asarray(positions, np.float64))
    forward = Forward() if near is None else Forward(near.propagator)
    for start in range(0, len(positions), BATCH):
        part = slice(start, start + BATCH)
        yield part, forward.counts(transmission, Exposure.of(light, places[part])).numpy()


def _expose(intensity: np.ndarray, *, factor: float, rng: np.random.Generator | None) -> float:
    """Turns intensities [n, N, N] into counts of `factor` times the light, in place (a stack of patterns is large).

    Poisson counts when there is a generator, their expectation when not; returns the mean photons of a pattern.
    """
    total = 0.0
    for start in range(0, len(intensity), BATCH):
        part = slice(start, start + BATCH)
        expected = factor * intensity[part].astype(np.float64)
        seen = expected if rng is None else rng.poisson(expected).astype(np.float64)
        intensity[part] = seen
        total += float(seen.sum())
    return total / len(intensity)


def _check(object_kind: str, probe_kind: str, scan_path: str, **numbers: int) -> None:
    for name, kind, known in (
        ("object", object_kind, OBJECTS),
        ("probe", probe_kind, PROBES),
        ("scan path", scan_path, SCAN_PATHS),
    ):
        if kind not in known:
            raise UsageError(f"no {name} is called {kind!r}: choose one of {', '.join(known)}")
    if numbers["n"] < 16 or numbers["n"] % 2:
        raise UsageError(f"N is {numbers['n']}: an even number of at least 16 is needed")
    for name, least in (("modes", 1), ("positions", 1), ("seed", 0)):
        if numbers[name] < least:
            raise UsageError(f"{name} is {numbers[name]}: at least {least} is needed")


def _check_propagation(near: NearFieldGeometry | None, probe_kind: str, n: int) -> None:
    if near is None:
        if probe_kind in FULL_FIELD:
            raise UsageError(f"the probe {probe_kind} fills the window: in the far field one with a dark rim is needed")
        return
    lengths = {"distance": near.distance_m, "wavelength": near.wavelength_m, "pixel size": near.pixel_size_m}
    for name, length in lengths.items():
        if not (np.isfinite(length) and length > 0):
            raise UsageError(f"the {name} is {length} m: a finite number above zero is needed")
    if near.distance_m > near.longest_m(n):
        raise UsageError(
            f"the distance is {near.distance_m:g} m: the near field of {n} pixels of {near.pixel_size_m:g} m at "
            f"{near.wavelength_m:g} m reaches to N·pixel²/λ = {near.longest_m(n):g} m"
        )


def _check_ranges(**values: float) -> None:
    for name, value in values.items():
        if not np.isfinite(value) or value < 0 or (value == 0 and name != "jitter_px"):
            raise UsageError(f"{name} is {value}: a finite number above zero is needed")
