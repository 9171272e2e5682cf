"""Random scans for the training of the pretrained network."""

from __future__ import annotations

import numpy as np

from ptycho_torch.simulation.acquire import MARGIN_PX, SimulatedScan, acquire, object_shape
from ptycho_torch.simulation.objects import NATURAL_IMAGES, OBJECTS, natural_image
from ptycho_torch.simulation.probes import PROBES, out_of_focus, with_modes
from ptycho_torch.simulation.scan_paths import SCAN_PATHS

HELD_OUT = ("camera", "coins", "astronaut", "chelsea")
"""Images that `random_scan` never uses, for benchmarks on objects that the pretrained network has not seen."""
SHOWN_PROBES = ("disk", "gaussian", "defocus", "zone-plate")
SIZES = {32: 0.35, 48: 0.2, 64: 0.35, 96: 0.05, 128: 0.05}  # N and how often
PIXELS = 64 * 64**2
"""Detector pixels of a scan, all patterns together: the same work for every N."""


def random_scan(rng: np.random.Generator) -> SimulatedScan:
    """A compact scan of random N, probe, modes, path, overlap, dose (10^2.6 … 10^9 photons per pattern) and object."""
    n = int(rng.choice(list(SIZES), p=list(SIZES.values())))
    probe = with_modes(random_probe(n, rng=rng), int(rng.choice([1, 2, 3], p=[0.75, 0.15, 0.1])))
    count = int(np.clip(PIXELS // n**2, 25, 144))
    step = (1 - rng.uniform(0.5, 0.85)) * width_px(probe)
    stops = SCAN_PATHS[str(rng.choice(list(SCAN_PATHS)))](count, step_px=step, aspect=rng.uniform(0.7, 1.4), rng=rng)
    stops = stops + rng.uniform(-0.25, 0.25, size=stops.shape) * step
    positions = stops + n // 2 + MARGIN_PX - stops.min(axis=0)
    exponent = 9.0 if rng.uniform() < 0.05 else rng.triangular(2.6, 3.5, 7.0)
    obj = random_object(object_shape(positions, n), rng=rng)
    return acquire(obj, probe, positions=positions, photons=10**exponent * (n / 64) ** 2, noise=True, rng=rng)


def random_probe(n: int, *, rng: np.random.Generator) -> np.ndarray:
    """One of the simulator's kinds, or an aberrated lens of random aperture, stop, defocus: complex [N, N]."""
    kind = str(rng.choice(["lens", "lens", "lens", *SHOWN_PROBES]))
    if kind != "lens":
        return PROBES[kind](n)
    outer = rng.uniform(0.09, 0.24)
    inner = rng.uniform(0.2, 0.45) * outer if rng.uniform() < 0.3 else 0.0
    probe = out_of_focus(n, outer=outer, inner=inner, soft=rng.uniform(0.004, 0.03), width=rng.uniform(0.25, 0.62))
    line = np.arange(n) - n // 2
    y, x = line[:, None] / n / outer, line[None, :] / n / outer
    strength = rng.normal(size=3) * (rng.uniform() < 0.5) * 0.7
    aberration = strength[0] * (x**2 - y**2) + strength[1] * 2 * x * y + strength[2] * x * (x**2 + y**2)
    spectrum = np.fft.fft2(probe) * np.fft.ifftshift(np.exp(1j * aberration * (np.hypot(y, x) < 2)))
    return np.fft.ifft2(spectrum)


def width_px(probe: np.ndarray) -> float:
    """Diameter [px] of the disk with the probe's effective area (Σ|P|²)² / Σ|P|⁴."""
    light = np.square(np.abs(probe)).sum(axis=0)
    return float(2 * np.sqrt(light.sum() ** 2 / np.square(light).sum() / np.pi))


def random_object(shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """An object of random kind and contrast, turned and mirrored at random, at times an island in empty space."""
    kind = str(rng.choice(["natural", *OBJECTS], p=[0.45, 0.15, 0.1, 0.15, 0.1, 0.05]))
    if kind == "natural":
        names = [name for name in NATURAL_IMAGES if name not in HELD_OUT]
        first, second = rng.choice(names, size=2, replace=rng.uniform() < 0.2)
        absorption, delay = (_glimpse(str(name), shape, rng=rng) for name in (first, second))
    else:
        obj = OBJECTS[kind](shape, rng=rng)
        absorption, delay = 2 * np.abs(obj) - 1, 0.5 + np.angle(obj) / 2
    if rng.uniform() < 0.2:
        inside = _island(shape, rng=rng)
        absorption, delay = 1 + (absorption - 1) * inside, delay * inside
    low = 1.0 if rng.uniform() < 0.1 else rng.uniform(0.25, 0.97)
    high = rng.uniform(max(low, 0.8), 1.0)
    reach = np.exp(rng.uniform(np.log(0.1), np.log(5.0)))
    return (low + (high - low) * absorption) * np.exp(1j * reach * (delay - 0.5))


def _glimpse(name: str, shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """A random part of an image, [0, 1], at a random scale and in one of eight orientations."""
    side = round(max(shape) * np.exp(rng.uniform(0, np.log(3.5))))
    whole = natural_image(name, (side, side))
    whole = np.rot90(whole, int(rng.integers(4)))
    whole = whole[:, ::-1] if rng.uniform() < 0.5 else whole
    top, left = (int(rng.integers(side - length + 1)) for length in shape)
    return whole[top : top + shape[0], left : left + shape[1]]


def _island(shape: tuple[int, int], *, rng: np.random.Generator) -> np.ndarray:
    """1 inside a soft disk or stripe, 0 around it."""
    y, x = np.indices(shape) - np.array(shape)[:, None, None] * rng.uniform(0.3, 0.7, size=(2, 1, 1))
    turn = rng.uniform(0, np.pi)
    away = np.hypot(y, x) if rng.uniform() < 0.5 else np.abs(y * np.sin(turn) + x * np.cos(turn))
    return np.clip(0.5 + (rng.uniform(0.2, 0.45) * min(shape) - away) / rng.uniform(1, 4), 0, 1)
