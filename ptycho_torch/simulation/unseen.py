"""Scans of objects outside the training set of the pretrained network, for benchmarks."""

from __future__ import annotations

import numpy as np

from ptycho_torch.data.scan import Scan
from ptycho_torch.simulation.acquire import MARGIN_PX, acquire, object_shape
from ptycho_torch.simulation.objects import OBJECTS, natural_image, transmission
from ptycho_torch.simulation.probes import make_probe
from ptycho_torch.simulation.scan_paths import raster
from ptycho_torch.simulation.variety import HELD_OUT, width_px

WIDTH_OVER_STEP = 0.75
"""Linear overlap of neighbouring probes, 1 − step/width, unless a row has another one."""


def simulated(
    *,
    photons: float = 1e5,
    overlap: float = WIDTH_OVER_STEP,
    n: int = 64,
    positions: int = 400,
    probe: str | np.ndarray = "defocus",
    modes: int = 1,
    kind: str = "unseen images",
    seed: int = 7,
    whole: bool = False,
) -> Scan:
    """A raster with jitter over natural images that pretraining has not seen, or another kind of object; `probe` is
    the name of one of the simulator's, or an array `[mode, N, N]`."""
    rng = np.random.default_rng(seed)
    light = make_probe(probe, n=n, modes=modes) if isinstance(probe, str) else probe
    n = light.shape[-1]
    step = (1 - overlap) * width_px(light)
    stops = raster(positions, step_px=step, aspect=1.0, rng=rng)
    stops = stops + rng.uniform(-0.15, 0.15, size=stops.shape) * step
    places = stops + n // 2 + MARGIN_PX - stops.min(axis=0)
    places = places.round() if whole else places
    shape = object_shape(places, n)
    if kind == "unseen images":
        obj = transmission(natural_image(HELD_OUT[0], shape), natural_image(HELD_OUT[1], shape))
    else:
        obj = OBJECTS[kind](shape, rng=rng)
    made = acquire(obj, light, positions=places, photons=photons, noise=True, rng=rng)
    lit = made.amplitude.any(axis=(1, 2))  # a pattern without photons has no information
    return Scan.from_arrays(
        made.amplitude[lit], places[lit], probe=made.probe, domain="amplitude", obj=made.obj, nphotons=photons
    )


def defocused(scan: Scan, *, by: float = 20.0) -> np.ndarray:
    """The probe of a scan, a little more out of focus."""
    line = np.fft.fftfreq(scan.n)
    bend = np.exp(1j * by * (64 / scan.n) * (line[:, None] ** 2 + line[None, :] ** 2) * scan.n / 64)
    return np.fft.ifft2(np.fft.fft2(scan.probe) * bend).astype(np.complex64)
