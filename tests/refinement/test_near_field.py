"""Refinement behind a Fresnel propagation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from refinement_cases import flat, region_of, truth_of
from scipy.ndimage import gaussian_filter

from ptycho_torch.data.scan import Scan
from ptycho_torch.refinement import Unknowns, refine
from ptycho_torch.simulation.acquire import NearFieldGeometry
from ptycho_torch.simulation.as_scan import simulate
from ptycho_torch.simulation.truth import relative_error
from ptycho_torch.simulation.unseen import simulated


def near_scan(fresnel_number: float) -> Scan:
    """No noise, 100 patterns of 32 × 32 under a known structured probe that fills the window."""
    rng = np.random.default_rng(0)
    parts = [gaussian_filter(rng.normal(size=(32, 32)), 1.0, mode="wrap") for _ in range(2)]
    probe = (parts[0] + 1j * parts[1]).astype(np.complex64)[None]
    scan = simulated(photons=1e7, overlap=0.75, n=32, positions=100, probe=probe / np.abs(probe).std())
    pixel, wavelength = 1e-7, 1e-10
    distance = pixel**2 / (wavelength * fresnel_number)
    known = {"pixel_size_m": pixel, "wavelength_m": wavelength, "propagation_distance_m": distance}
    scan = replace(scan, propagation="near", **known)  # type: ignore[arg-type]
    region, amplitude = region_of(scan, validation=None), np.empty_like(scan.patterns)
    for batch in region.batches():
        counts = region.forward.counts(truth_of(scan, region), batch)
        amplitude[region.indices[batch.index.numpy()]] = counts.sqrt().numpy()
    return replace(scan, patterns=amplitude)


def test_a_flat_object_becomes_the_truth_under_a_known_structured_probe() -> None:
    near = NearFieldGeometry(distance_m=1e-3)
    scan = simulate(n=32, positions=100, step_px=4, near=near, noise=False, seed=1)
    region = region_of(scan, subsets=2)
    with torch.inference_mode():
        found = refine(region, flat(region), sweeps=200)
    light = region.illumination()
    weight = (light / (0.3 * light.max())).clamp(max=1)
    assert float(relative_error(found.object.to(torch.complex128), truth_of(scan, region), weight)) < 1e-3**2


def test_free_positions_come_back() -> None:
    scan = near_scan(0.1)
    errors = np.random.default_rng(1).normal(scale=0.4, size=scan.positions.shape)
    region = region_of(replace(scan, positions=scan.positions + errors), subsets=2, margin=6, moving=True)
    with torch.inference_mode():
        found = refine(region, flat(region), sweeps=40, unknowns=Unknowns(positions="free"))

    def rms(positions: torch.Tensor) -> float:
        left = positions.numpy() + np.array(region.origin) - scan.positions[region.indices]
        return float(np.sqrt(np.square(left - left.mean(0)).mean()))

    assert rms(found.positions) < 0.25 * rms(region.positions)
