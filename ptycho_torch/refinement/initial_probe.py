"""An unknown probe from the patterns alone: the mean pattern is the aperture, and the defocus is searched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.grouping import central_region
from ptycho_torch.data.held_out import held_out_patterns
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import refinement_subsets
from ptycho_torch.physics.probe import guess_probe
from ptycho_torch.refinement.schedule import PROBE_SEARCH, ProbeSearch
from ptycho_torch.refinement.solver import refine
from ptycho_torch.refinement.state import Unknowns

OnStep = Callable[[str, int, int], object]
"""Called with the name of the task, the number of finished steps, and their total."""


@dataclass(frozen=True, eq=False)
class FoundProbe:
    """A probe and how it was found."""

    probe: np.ndarray  # complex64 [1, N, N], √photons
    width: float  # of the defocused probe over N
    misfits: dict[float, float]  # held out, per pixel, of each width tried


def search_probe(
    scan: Scan,
    *,
    search: ProbeSearch = PROBE_SEARCH,
    device: torch.device | str = "cpu",
    say: Callable[[str], object] = lambda _: None,
    on_step: OnStep | None = None,
) -> FoundProbe:
    """The probe with the lowest held-out misfit on the patterns in the middle of a scan.

    For each defocus a short refinement of object and probe from a flat object gives a held-out misfit; the probe with
    the least is refined further. `on_step(what, done, total)` is called after each refinement. Deterministic.
    """
    chosen = central_region(scan.positions, min(search.patterns, len(scan)))
    mean = torch.from_numpy(scan.mean_counts(chosen).astype(np.float32))
    misfits, total = dict[float, float](), len(search.widths) + 1

    def found(width: float, sweeps: int, done: int) -> tuple[float, Tensor]:
        tried = _tried(scan, chosen, guess_probe(mean, width=width), sweeps, search, device)
        if on_step is not None:
            on_step("probe search", done, total)
        return tried

    for done, width in enumerate(search.widths, start=1):
        misfits[width], _ = found(width, search.sweeps, done)
    best = min(misfits, key=lambda width: misfits[width])
    _, probe = found(best, search.refined_sweeps, total)
    say(
        f"probe found from the patterns: defocused to {abs(best) * scan.n:.0f} px (sign {'-' if best < 0 else '+'}), "
        f"held-out misfit {misfits[best]:.4g} per pixel; in focus it is {misfits[0.0]:.4g}"
    )
    return FoundProbe(probe.numpy().astype(np.complex64), best, misfits)


def with_probe_from_patterns(
    scan: Scan,
    *,
    device: torch.device | str = "cpu",
    say: Callable[[str], object],
    on_step: OnStep | None = None,
) -> Scan:
    """The scan with a probe estimated from its patterns.

    In the far field the defocus is searched; in the near field the probe is √(mean pattern), propagated back (see
    `guess_probe`).
    """
    if scan.propagation == "near":
        return scan.with_guessed_probe()
    found = search_probe(scan, device=device, say=say, on_step=on_step)
    notes = tuple(note for note in scan.notes if "no probe is given" not in note)
    origin = f"found from the patterns, defocused to {abs(found.width) * scan.n:.0f} px"
    return replace(scan, probe=found.probe, probe_origin=origin, probe_is_guess=False, notes=notes)


def with_refined_probe(
    scan: Scan,
    *,
    search: ProbeSearch = PROBE_SEARCH,
    device: torch.device | str = "cpu",
    say: Callable[[str], object],
) -> Scan:
    """The scan with its probe refined, with the object, on the patterns in its middle; the power is kept."""
    chosen = central_region(scan.positions, min(search.refined_patterns, len(scan)))
    misfit, probe = _tried(scan, chosen, torch.as_tensor(scan.probe), search.refined_sweeps, search, device)
    found = probe.numpy() * (np.linalg.norm(scan.probe) / np.linalg.norm(probe.numpy()))
    say(f"probe refined on {len(chosen)} patterns: held-out misfit {misfit:.4g} per pixel")
    return replace(scan, probe=found.astype(np.complex64), probe_origin=f"refined, {scan.probe_origin} at first")


def _tried(
    scan: Scan, chosen: np.ndarray, probe: Tensor, sweeps: int, search: ProbeSearch, device: torch.device | str
) -> tuple[float, Tensor]:
    """The lowest held-out misfit of a refinement from this probe, and the refined probe, on the CPU."""
    subsets = refinement_subsets(scan, chosen, probe)
    validation = held_out_patterns(scan.positions[chosen], fraction=search.held_out_fraction)
    region = Region(scan, chosen, probe, subsets=subsets, validation=validation, device=device)
    with torch.inference_mode():
        found = refine(region, region.uniform_object(), sweeps=sweeps, unknowns=Unknowns(probe=True))
    finite = [value for value in found.misfits if math.isfinite(value)]
    return min(finite, default=math.inf), found.probe.cpu()
