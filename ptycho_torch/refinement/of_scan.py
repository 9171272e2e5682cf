"""A reconstruction, its probe and its scan, refined: what joins `infer` to the refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.config import InferenceConfig
from ptycho_torch.data.loader import Judges, Region, pick_judges, refining_subsets
from ptycho_torch.data.scan import Scan
from ptycho_torch.physics.probe import with_more_modes
from ptycho_torch.refinement.course import Freedom, Refined, refine
from ptycho_torch.refinement.denoising import denoise, in_words
from ptycho_torch.refinement.starts import Start, on_canvas, posterior_mean

MARGIN_PX = 12
"""Room on the canvas for positions that move."""
SPEAK_EVERY = 5
"""Sweeps between two progress lines."""


@dataclass(frozen=True, eq=False)
class RefinedScan:
    """What a refinement has found."""

    obj: Tensor  # complex64 [H, W], transmission
    undenoised: Tensor | None  # the same before a denoising that was kept
    origin: tuple[int, int]  # (y, x) of obj[0, 0] on the scan's object grid
    scan: Scan  # with the refined probe and positions
    intensities: np.ndarray  # float32 [n], for each pattern of the scan; 1 where it was not used
    scores: dict[str, Any]


def refined_scan(
    obj: Tensor,
    region: Region,
    start: Start,
    scan: Scan,
    chosen: np.ndarray,
    config: InferenceConfig,
    *,
    say: Callable[[str], object],
) -> RefinedScan:
    """Refine `obj`, transmission on the canvas of `region`, with the patterns `chosen`, as the settings say."""
    chosen = np.unique(chosen)
    probe = with_more_modes(start.network_probe(scan.probe).to(region.device), config.modes or 1)
    positions = config.position_correction != "none"
    canvas = Region(
        scan,
        chosen,
        probe,
        subsets=_subsets(scan, chosen, probe, positions=positions),
        batch_size=config.inference_batch_size,
        judges=judges_of(scan, chosen, start, config),
        margin=MARGIN_PX if positions else 0,
        device=region.device,
    )
    freedom = Freedom(
        likelihood=config.likelihood,
        probe=config.probe_update,
        positions=positions,
        affine=config.position_correction == "affine",
        intensities=config.intensity_fluctuation,
        start="flat" if start.is_flat else "network" if start.is_general else "refined",
    )
    sweeps = config.refine or 0

    def report(sweep: int, value: float) -> None:
        if sweep % SPEAK_EVERY == 0 or sweep == sweeps:
            say(f"sweep {sweep}/{sweeps}  held-out likelihood {value:.5g} a pixel")

    first = on_canvas(obj * (start.scale.value / canvas.level), region.origin, canvas)
    result = refine(canvas, first, sweeps=sweeps, freedom=freedom, report=report)
    scores = _scores(result, canvas)
    say(_in_words(scores))
    unit, undenoised = canvas.level / start.scale.value, None
    if config.denoise:
        found = denoise(canvas, result, freedom, posterior_mean().to(canvas.device))
        say(in_words(found))
        undenoised = unit * result.object if found.is_kept else None
        result, scores["denoising"] = found.refined, found.scores()
    return RefinedScan(
        obj=unit * result.object,
        undenoised=undenoised,
        origin=canvas.origin,
        scan=_with(result, canvas, scan, start),
        intensities=_in_scan_order(result.intensities.cpu().numpy(), canvas, np.ones(len(scan), np.float32)),
        scores=scores,
    )


def judges_of(scan: Scan, chosen: np.ndarray, start: Start, config: InferenceConfig) -> Judges:
    """The judges of the refinement that the settings ask for; the network before it must not see what they hold out."""
    moving = config.position_correction != "none" or config.intensity_fluctuation
    return pick_judges(scan.positions[chosen], start.network_probe(scan.probe), moving=moving)


def _subsets(scan: Scan, chosen: np.ndarray, probe: Tensor, *, positions: bool) -> int:
    """Fewer where positions move: an object that follows every pattern at once hides where each was taken."""
    most = refining_subsets(scan, chosen, probe)
    return max(1, round(0.75 * most)) if positions else most


def _with(result: Refined, canvas: Region, scan: Scan, start: Start) -> Scan:
    unit = scan.n / 2 / start.scale.probe_norm * canvas.level  # of the canvas's probe, in that of the scan's
    origin = "refined" if torch.equal(result.probe, canvas.probe) else f"refined, {scan.probe_origin} at first"
    moved = result.positions.cpu().numpy() + np.array(canvas.origin)
    return replace(
        scan,
        probe=(result.probe / unit).cpu().numpy(),
        probe_origin=scan.probe_origin if origin == "refined" else origin,
        positions=_in_scan_order(moved, canvas, scan.positions.copy()),
    )


def _in_scan_order(values: np.ndarray, canvas: Region, others: np.ndarray) -> np.ndarray:
    others[canvas.indices] = values
    return others


def _scores(result: Refined, canvas: Region) -> dict[str, Any]:
    moves = (result.positions - canvas.positions).cpu().numpy()
    power = result.probe.abs().square().sum((-2, -1))
    factors = result.intensities
    return {
        "sweeps": len(result.likelihood) - 1,
        "best_sweep": result.best_sweep,
        "is_settled": result.is_settled,
        "judging_patterns": canvas.judges,
        "likelihood_per_pixel": result.likelihood,
        "subsets": result.subsets,
        "probe_mode_power": (power / power.sum()).tolist(),
        "position_moves_rms_px": float(np.sqrt(np.square(moves).sum(1).mean())),
        "intensity_factors_spread": float(factors.std() / factors.mean()) if len(factors) > 1 else 0.0,
    }


def _in_words(scores: dict[str, Any]) -> str:
    values, best = scores["likelihood_per_pixel"], scores["best_sweep"]
    judge = "what is held out" if scores["judging_patterns"] else "all patterns"
    settled = ", with the slow parts of the last sweep" if scores["is_settled"] else ""
    if best == 0:
        return f"refinement: none of {scores['sweeps']} sweeps makes {judge} likelier, the start is kept{settled}"
    return (
        f"refinement: best after {best} of {scores['sweeps']} sweeps, likelihood of {judge} "
        f"{values[0]:.5g} -> {values[best]:.5g} a pixel{settled}"
    )
