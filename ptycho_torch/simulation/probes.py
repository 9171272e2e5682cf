"""Illuminations of unit power, complex [mode, N, N], about array index N//2; every width scales with N."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

MODE_DECAY = 0.4  # power of a mode over the power of the one before


def disk(n: int) -> np.ndarray:
    """A pinhole at the sample: a flat disk N/2 wide, its edge one pixel soft."""
    y, x = _coordinates(n)
    return np.clip(0.5 + n / 4 - np.hypot(y, x), 0, 1).astype(complex)


def gaussian(n: int) -> np.ndarray:
    """A Gaussian focus, |probe|² with a full width at half maximum of N/4."""
    y, x = _coordinates(n)
    return np.exp(-2 * np.log(2) * (y**2 + x**2) / (n / 4) ** 2).astype(complex)


def defocus(n: int) -> np.ndarray:
    """A lens with a soft circular aperture out of focus, 0.55 N (35 px at N = 64) wide."""
    return out_of_focus(n, outer=0.17, inner=0.0, soft=0.02, width=0.55)


def zone_plate(n: int) -> np.ndarray:
    """A zone plate with central stop out of focus: a ring 0.55 N wide, the stop 0.4 of the aperture."""
    return out_of_focus(n, outer=0.2, inner=0.08, soft=0.006, width=0.55)


def diffuser(n: int) -> np.ndarray:
    """Speckles of a random diffuser, N/13 wide, seen through a soft disk N/2 wide.

    Each pixel of the object leaves its own mark on a whole pattern, so that few or no neighbours are needed. Source:
    randomised probe imaging (Levitan et al. 2020).
    """
    rng = np.random.default_rng(0)
    most = min(15, (n - 1) // 2)
    waves = np.arange(-most, most + 1)  # in the width of the array
    pupil = 0.5 * (1 - np.tanh((np.hypot(waves[:, None], waves) - 13) / 0.6))
    spectrum = np.zeros((n, n), complex)
    spectrum[np.ix_(waves, waves)] = pupil * (rng.normal(size=pupil.shape) + 1j * rng.normal(size=pupil.shape))
    speckles = np.fft.fftshift(np.fft.ifft2(spectrum))
    return _centred(speckles * 0.5 * (1 - np.tanh((np.hypot(*_coordinates(n)) - n / 4) / (n / 42))))


def full_field(n: int) -> np.ndarray:
    """A wide beam behind a thin diffuser: it fills the window of a near-field scan, and is periodic over it.

    A random phase φ of 1 rad (root mean square) and periods from N/7 on, seen at the distance where the shortest of
    them have turned into contrast: P = F⁻¹[F[exp(iφ)] · exp(−iπ w²/(2·7²))], w in waves over the window. The structure
    tells probe and object apart where no rim does. Source: near-field ptychography (Stockmar et al. 2013).
    """
    rng, most = np.random.default_rng(0), 7
    line = np.arange(-most, most + 1)
    waves = np.zeros((n, n), complex)
    inside = np.hypot(line[:, None], line) <= most
    waves[np.ix_(line, line)] = inside * (rng.normal(size=inside.shape) + 1j * rng.normal(size=inside.shape))
    phase = np.fft.ifft2(waves).real
    phase /= phase.std()
    w = np.fft.fftfreq(n, 1 / n)
    kernel = np.exp(-0.5j * np.pi * (w[:, None] ** 2 + w[None, :] ** 2) / most**2)
    return np.fft.ifft2(np.fft.fft2(np.exp(1j * phase)) * kernel)


def make_probe(kind: str, *, n: int, modes: int = 1) -> np.ndarray:
    """The probe `kind` as `modes` mutually incoherent, orthogonal modes [mode, N, N], Σ|probe|² = 1 over all of them.

    Modes are the coherent probe times the polynomials 1, x, y, x², xy, y², …, made orthonormal in this order (Hermite's
    way); powers fall by `MODE_DECAY` from each mode to the next. Where the probe fills the window, sines of one wave
    over it stand for x and y.
    """
    return with_modes(PROBES[kind](n), modes, periodic=kind in FULL_FIELD)


def with_modes(main: np.ndarray, modes: int, *, periodic: bool = False) -> np.ndarray:
    """A coherent probe [N, N] as the first of `modes` orthogonal ones [mode, N, N], as `make_probe` does."""
    n = main.shape[-1]
    y, x = (coordinate / (n / 4) for coordinate in _coordinates(n))
    if periodic:
        y, x = np.sin(np.pi / 2 * y), np.sin(np.pi / 2 * x)
    orders = [(total - order, order) for total in range(modes) for order in range(total + 1)][:modes]
    family = np.stack([(main * x**i * y**j).ravel() for i, j in orders], axis=1)
    orthonormal, triangle = np.linalg.qr(family)
    orthonormal = orthonormal * np.exp(1j * np.angle(np.diagonal(triangle)))
    power = MODE_DECAY ** np.arange(modes)
    weighted = orthonormal * np.sqrt(power / power.sum())
    return weighted.T.reshape(modes, n, n)


def out_of_focus(n: int, *, outer: float, inner: float, soft: float, width: float) -> np.ndarray:
    """Inverse far field of an annulus with quadratic phase; radii in cycles/px, `width` = geometric cone / N.

    A phase c·f² moves light of frequency f by c·f/π px, so the cone is 2c·outer/π px wide.
    """
    y, x = _coordinates(n)
    frequency = np.hypot(y, x) / n
    pupil = 0.5 * (1 - np.tanh((frequency - outer) / soft))
    if inner:
        pupil = pupil * 0.5 * (1 + np.tanh((frequency - inner) / soft))
    curvature = np.pi * width * n / (2 * outer)
    wave = pupil * np.exp(1j * curvature * frequency**2)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(wave)))


def _centred(probe: np.ndarray) -> np.ndarray:
    """A probe [N, N] shifted so that the centroid of its intensity is at the array's centre."""
    y, x = _coordinates(len(probe))
    light = np.square(np.abs(probe)) / np.square(np.abs(probe)).sum()
    turns = ((light * y).sum() * y + (light * x).sum() * x) / len(probe)
    return np.fft.ifft2(np.fft.fft2(probe) * np.fft.ifftshift(np.exp(2j * np.pi * turns)))


def _coordinates(n: int) -> tuple[np.ndarray, np.ndarray]:
    line = np.arange(n, dtype=np.float64) - n // 2
    return line[:, None], line[None, :]


PROBES: dict[str, Callable[[int], np.ndarray]] = {
    "disk": disk,
    "gaussian": gaussian,
    "defocus": defocus,
    "zone-plate": zone_plate,
    "diffuser": diffuser,
    "full-field": full_field,
}
FULL_FIELD = ("full-field",)
"""Probes without a dark rim, for the near field only: in the far field their patterns would be aliased."""
