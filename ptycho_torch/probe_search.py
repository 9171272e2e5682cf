"""An unknown probe, found from the patterns alone: the mean pattern as the aperture, and a search of the defocus."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.grouping import central_region
from ptycho_torch.data.loader import Region, refining_subsets
from ptycho_torch.data.scan import Scan
from ptycho_torch.physics.probe import guess_probe
from ptycho_torch.refinement import Freedom, pick_held_out, refine

WIDTHS = (0.0, 0.15, -0.15, 0.3, -0.3, 0.45, -0.45, 0.6, -0.6, 0.75, -0.75)
"""Geometric width of the defocused cone over N, with the sign of the defocus."""
PATTERNS = 128
SWEEPS = 10
LONG_SWEEPS = 40


@dataclass(frozen=True, eq=False)
class FoundProbe:
    """A probe and how it was found."""

    probe: np.ndarray  # complex64 [1, N, N], √photons on an object of one
    width: float  # of the defocused cone over N
    likelihoods: dict[float, float]  # held out, per pixel, of each width tried


def search_probe(scan: Scan, *, say: Callable[[str], object] = lambda _: None) -> FoundProbe:
    """The probe that explains the patterns in the middle of a scan best.

    For each defocus a short refinement of object and probe from a flat object judges it by patterns held out; the best
    one is refined further. Deterministic. Source of the idea: the field's habit of starting from a model of the optics.
    """
    chosen = central_region(scan.positions, min(PATTERNS, len(scan)))
    mean = torch.from_numpy(scan.mean_counts(chosen).astype(np.float32))
    likelihoods = {width: _tried(scan, chosen, guess_probe(mean, width=width), SWEEPS)[0] for width in WIDTHS}
    best = min(likelihoods, key=lambda width: likelihoods[width])
    _, probe = _tried(scan, chosen, guess_probe(mean, width=best), LONG_SWEEPS)
    say(
        f"probe found from the patterns: defocused to {abs(best) * scan.n:.0f} px (sign {'-' if best < 0 else '+'}), "
        f"held-out likelihood {likelihoods[best]:.4g} a pixel; in focus it is {likelihoods[0.0]:.4g}"
    )
    return FoundProbe(probe.numpy().astype(np.complex64), best, likelihoods)


def _tried(scan: Scan, chosen: np.ndarray, probe: Tensor, sweeps: int) -> tuple[float, Tensor]:
    """The least held-out likelihood that a refinement from this probe reaches, and its probe."""
    subsets = refining_subsets(scan, chosen, probe)
    held_out = pick_held_out(scan.positions[chosen], fraction=0.1)
    region = Region(scan, chosen, probe, subsets=subsets, held_out=held_out)
    flat = torch.ones(region.shape, dtype=torch.complex64)
    with torch.inference_mode():
        found = refine(region, flat, sweeps=sweeps, freedom=Freedom(probe=True))
    finite = [value for value in found.likelihood if math.isfinite(value)]
    return min(finite, default=math.inf), found.probe
