"""An unknown probe, found from the patterns alone: the mean pattern as the aperture, and a search of the defocus."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.grouping import central_region
from ptycho_torch.data.held_out import spared_patterns
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import refining_subsets
from ptycho_torch.physics.probe import guess_probe
from ptycho_torch.refinement.course import Freedom, refine

WIDTHS = (0.0, 0.15, -0.15, 0.3, -0.3, 0.45, -0.45, 0.6, -0.6, 0.75, -0.75)
"""Geometric width of the defocused cone over N, with the sign of the defocus."""
PATTERNS, MORE_PATTERNS = 128, 512
"""Patterns that a search looks at, and a refinement of what it or the file gives."""
SWEEPS = 10
LONG_SWEEPS = 40


@dataclass(frozen=True, eq=False)
class FoundProbe:
    """A probe and how it was found."""

    probe: np.ndarray  # complex64 [1, N, N], √photons on an object of one
    width: float  # of the defocused cone over N
    likelihoods: dict[float, float]  # held out, per pixel, of each width tried


def search_probe(
    scan: Scan, *, device: torch.device | str = "cpu", say: Callable[[str], object] = lambda _: None
) -> FoundProbe:
    """The probe that explains the patterns in the middle of a scan best.

    For each defocus a short refinement of object and probe from a flat object judges it by patterns held out; the
    best one is refined further. Deterministic. Source of the idea: the field's habit of starting from a model.
    """
    chosen = central_region(scan.positions, min(PATTERNS, len(scan)))
    mean = torch.from_numpy(scan.mean_counts(chosen).astype(np.float32))
    likelihoods = {width: _tried(scan, chosen, guess_probe(mean, width=width), SWEEPS, device)[0] for width in WIDTHS}
    best = min(likelihoods, key=lambda width: likelihoods[width])
    _, probe = _tried(scan, chosen, guess_probe(mean, width=best), LONG_SWEEPS, device)
    say(
        f"probe found from the patterns: defocused to {abs(best) * scan.n:.0f} px (sign {'-' if best < 0 else '+'}), "
        f"held-out likelihood {likelihoods[best]:.4g} a pixel; in focus it is {likelihoods[0.0]:.4g}"
    )
    return FoundProbe(probe.numpy().astype(np.complex64), best, likelihoods)


def with_probe_from_patterns(scan: Scan, *, device: torch.device | str = "cpu", say: Callable[[str], object]) -> Scan:
    """The scan with the probe that its patterns tell of."""
    found = search_probe(scan, device=device, say=say)
    notes = tuple(note for note in scan.notes if "no probe is given" not in note)
    origin = f"found from the patterns, defocused to {abs(found.width) * scan.n:.0f} px"
    return replace(scan, probe=found.probe, probe_origin=origin, probe_is_guess=False, notes=notes)


def with_refined_probe(scan: Scan, *, device: torch.device | str = "cpu", say: Callable[[str], object]) -> Scan:
    """The scan with its probe refined, with the object, on the patterns in its middle; the power stays."""
    chosen = central_region(scan.positions, min(MORE_PATTERNS, len(scan)))
    likelihood, probe = _tried(scan, chosen, torch.as_tensor(scan.probe), LONG_SWEEPS, device)
    found = probe.numpy() * (np.linalg.norm(scan.probe) / np.linalg.norm(probe.numpy()))
    say(f"probe refined on {len(chosen)} patterns: held-out likelihood {likelihood:.4g} a pixel")
    return replace(scan, probe=found.astype(np.complex64), probe_origin=f"refined, {scan.probe_origin} at first")


def _tried(
    scan: Scan, chosen: np.ndarray, probe: Tensor, sweeps: int, device: torch.device | str
) -> tuple[float, Tensor]:
    """The least held-out likelihood that a refinement from this probe reaches, and its probe, on the CPU."""
    subsets = refining_subsets(scan, chosen, probe)
    judges = spared_patterns(scan.positions[chosen], fraction=0.1)
    region = Region(scan, chosen, probe, subsets=subsets, judges=judges, device=device)
    flat = region.uniform_object()
    with torch.inference_mode():
        found = refine(region, flat, sweeps=sweeps, freedom=Freedom(probe=True))
    finite = [value for value in found.likelihood if math.isfinite(value)]
    return min(finite, default=math.inf), found.probe.cpu()
