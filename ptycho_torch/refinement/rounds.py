"""The workflow above the solver: the refinement of a scan, in rounds where positions are refined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.held_out import ValidationSet, pick_validation_set
from ptycho_torch.data.region import Region, on_canvas
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import refinement_subsets
from ptycho_torch.networks.pretrained import posterior_mean
from ptycho_torch.physics.likelihood import Likelihood
from ptycho_torch.physics.probe import with_more_modes
from ptycho_torch.physics.regularisers import Regulariser
from ptycho_torch.predictors import Predictor
from ptycho_torch.refinement.denoising import denoise
from ptycho_torch.refinement.denoising import in_words as denoising_in_words
from ptycho_torch.refinement.schedule import SCHEDULE, Schedule
from ptycho_torch.refinement.solver import OnSweep, refine
from ptycho_torch.refinement.state import OBJECT_ONLY, Initial, Refined, Unknowns
from ptycho_torch.refinement.validation import gain_in_standard_errors


@dataclass(frozen=True, eq=False)
class RefinedScan:
    """The result of a refinement."""

    obj: Tensor  # complex64 [H, W], transmission
    undenoised: Tensor | None  # the same before a denoising that was kept
    origin: tuple[int, int]  # (y, x) of obj[0, 0] on the scan's object grid
    scan: Scan  # with the refined probe and positions
    intensities: np.ndarray  # float32 [n], for each pattern of the scan; 1 where it was not used
    scores: dict[str, Any]


@dataclass(frozen=True)
class Round:
    """One round of a plan: a refinement from one initial object."""

    sweeps: int
    unknowns: Unknowns
    start: Initial
    over_relax: bool = False  # positions are nearly right: see `refine`


@dataclass(frozen=True, eq=False)
class FinishedRound:
    """The result of a round, and its canvas."""

    result: Refined
    canvas: Region
    scan: Scan  # before the round
    sweeps_before: int

    @property
    def sweeps(self) -> int:
        """Sweeps of this round."""
        return len(self.result.misfits) - 1


def refined_scan(
    obj: Tensor,
    region: Region,
    predictor: Predictor,
    scan: Scan,
    chosen: np.ndarray,
    *,
    sweeps: int,
    unknowns: Unknowns = OBJECT_ONLY,
    likelihood: str | Likelihood = "poisson",
    regulariser: Regulariser | None = None,
    schedule: Schedule = SCHEDULE,
    modes: int = 1,
    denoising: bool = False,
    batch_size: int | None = None,
    say: Callable[[str], object] = lambda _: None,
    on_sweep: OnSweep | None = None,
) -> RefinedScan:
    """Refine `obj`, transmission on the canvas of `region`, with the patterns `chosen`, by up to `sweeps` sweeps.

    `unknowns`, `likelihood`, `regulariser` and `schedule` are those of `refine`. Probe modes are added up to `modes`;
    with `denoising`, a network then removes photon noise; `batch_size` is the number of patterns per batch. `on_sweep`
    is called after every sweep (counted over all rounds) and ends the refinement when it returns True; `say` takes
    lines of text.

    Where positions are refined, the refinement goes in rounds (`plan_rounds`), each from the positions of the one
    before. A network reconstructs the scan again, so that the object is independent of the wrong positions; otherwise
    the object is kept. The last round is the result, unless the first has a lower held-out misfit.
    """
    chosen, device = np.unique(chosen), region.device
    validation = validation_set_of(scan, chosen, unknowns)
    with_modes = with_more_modes(torch.as_tensor(scan.probe), modes)
    now = replace(scan, probe=with_modes.numpy())
    first: FinishedRound | None = None
    current: FinishedRound | None = None
    finished: list[Refined] = []  # without arrays
    for plan in plan_rounds(sweeps, unknowns, start=initial_of(predictor), schedule=schedule):
        before = 0
        if current is not None:
            before = current.sweeps_before + current.sweeps
            end, region = _last_of(current.result), current.canvas
            now, obj = _with(end, region, now), end.object
            current = None  # frees its patterns
            if predictor.reconstructs_again:
                say("the network reconstructs again from the positions found so far")
                region = predictor.region(now, chosen, batch_size=batch_size, validation=validation, device=device)
                obj = predictor.model(region)
        canvas = _canvas(now, chosen, unknowns, schedule, validation, batch_size=batch_size, device=device)
        result = refine(
            canvas,
            on_canvas(obj, region.origin, canvas),
            sweeps=plan.sweeps,
            unknowns=plan.unknowns,
            likelihood=likelihood,
            start=plan.start,
            schedule=schedule,
            regulariser=regulariser,
            over_relax=plan.over_relax,
            on_sweep=_seen_from_outside(on_sweep, before, sweeps),
        )
        current = FinishedRound(result, canvas, now, before)
        first = first or current
        finished.append(_without_estimates(result))
        if result.is_interrupted:
            break
    assert first is not None and current is not None
    best = best_of(first, current, equivalent_gain=schedule.equivalent_gain)
    return _summed_up(best, finished, scan, denoising=denoising, say=say)


def _summed_up(
    best: FinishedRound, finished: list[Refined], scan: Scan, *, denoising: bool, say: Callable[[str], object]
) -> RefinedScan:
    """The best of all finished rounds, told in words, less its photon noise where that is asked for."""
    result, canvas, undenoised = best.result, best.canvas, None
    scores = _scores(finished, best, scan.positions)
    say(_in_words(scores))
    if denoising:
        found = denoise(canvas, result, posterior_mean().to(canvas.device))
        say(denoising_in_words(found))
        undenoised = result.object if found.is_kept else None
        result, scores["denoising"] = found.refined, found.scores()
    return RefinedScan(
        obj=result.object,
        undenoised=undenoised,
        origin=canvas.origin,
        scan=_with(best.result, canvas, best.scan),
        intensities=_in_scan_order(result.intensities.cpu().numpy(), canvas, np.ones(len(scan), np.float32)),
        scores=scores,
    )


def plan_rounds(
    sweeps: int, unknowns: Unknowns, *, start: Initial = "flat", schedule: Schedule = SCHEDULE
) -> list[Round]:
    """The sweeps and the unknowns of each round.

    Where positions are refined and the sweeps suffice: a round that searches them, rounds that converge from there, and
    a last one with fixed positions. Otherwise all sweeps in one round.
    """
    spare = sweeps - schedule.search_sweeps - schedule.fixed_sweeps
    near = min(spare // schedule.near_sweeps, schedule.most_near_rounds)
    if not unknowns.has_positions or near < 1:
        return [Round(sweeps, unknowns, start)]
    later: Initial = "refined" if start == "flat" else start
    is_near = unknowns.positions == "affine" and start != "flat"  # no search for an affine map
    searching = Round(schedule.search_sweeps, unknowns, start, over_relax=is_near)
    converging = Round(schedule.near_sweeps, unknowns, later, over_relax=True)
    left = sweeps - schedule.search_sweeps - near * schedule.near_sweeps
    return [searching, *[converging] * near, Round(left, replace(unknowns, positions="none"), later)]


def initial_of(predictor: Predictor) -> Initial:
    """What kind of initial object a predictor gives; the network of a bundle is trained on such scans."""
    return "flat" if predictor.is_flat else "network" if predictor.is_general else "refined"


def validation_set_of(scan: Scan, chosen: np.ndarray, unknowns: Unknowns) -> ValidationSet:
    """The validation set of a refinement with these unknowns; a network before it must not use the held-out data."""
    moving = unknowns.has_positions or unknowns.has_intensities
    return pick_validation_set(scan.positions[chosen], torch.as_tensor(scan.probe), moving=moving)


def best_of(first: FinishedRound, last: FinishedRound, *, equivalent_gain: float) -> FinishedRound:
    """The last round, if its held-out misfit is equivalent to that of the first and not above that of the initial
    object; else the first."""
    values, misfit = last.result.held_out, float(last.result.held_out.mean())
    is_equivalent = gain_in_standard_errors(first.result.held_out, values) >= -equivalent_gain
    return last if is_equivalent and misfit <= first.result.misfits[0] else first


def _canvas(
    scan: Scan,
    chosen: np.ndarray,
    unknowns: Unknowns,
    schedule: Schedule,
    validation: ValidationSet,
    *,
    batch_size: int | None,
    device: torch.device,
) -> Region:
    probe = torch.as_tensor(scan.probe, device=device)
    subsets, moves = refinement_subsets(scan, chosen, probe), unknowns.has_positions
    if moves:
        subsets = max(1, round(schedule.subsets_with_positions * subsets))
    return Region(
        scan,
        chosen,
        probe,
        subsets=subsets,
        batch_size=batch_size,
        validation=validation,
        margin=schedule.margin_px if moves else 0,
        device=device,
    )


def _seen_from_outside(on_sweep: OnSweep | None, before: int, sweeps: int) -> OnSweep | None:
    """The caller's `on_sweep` for a round: sweeps are counted over all rounds."""
    if on_sweep is None:
        return None
    return lambda progress: on_sweep(replace(progress, sweep=before + progress.sweep, sweeps=sweeps))


def _last_of(result: Refined) -> Refined:
    """The result with the values of the last sweep: positions still converge when the held-out misfit does not fall."""
    last = result.last
    if last is None or not (last.object.isfinite().all() and last.probe.isfinite().all()):
        return result
    return replace(result, object=last.object, probe=last.probe, positions=last.positions)


def _without_estimates(result: Refined) -> Refined:
    """The history of a round, without its arrays."""
    nothing = torch.zeros(0)
    return replace(result, object=nothing, initial=None, last=None)


def _with(result: Refined, canvas: Region, scan: Scan) -> Scan:
    is_same = torch.equal(result.probe, canvas.probe)
    origin = (
        scan.probe_origin
        if is_same or scan.probe_origin.startswith("refined")
        else f"refined, {scan.probe_origin} at first"
    )
    moved = result.positions.cpu().numpy() + np.array(canvas.origin)
    return replace(
        scan,
        probe=result.probe.cpu().numpy(),
        probe_origin=origin,
        positions=_in_scan_order(moved, canvas, scan.positions.copy()),
    )


def _in_scan_order(values: np.ndarray, canvas: Region, others: np.ndarray) -> np.ndarray:
    others[canvas.indices] = values
    return others


def _scores(finished: list[Refined], best: FinishedRound, given: np.ndarray) -> dict[str, Any]:
    result, canvas = best.result, best.canvas
    moves = result.positions.cpu().numpy() + np.array(canvas.origin) - given[canvas.indices]
    power = result.probe.abs().square().sum((-2, -1))
    factors = result.intensities
    sweeps = [len(each.misfits) - 1 for each in finished]
    return {
        "sweeps": sum(sweeps),
        "rounds": sweeps,
        "best_sweep": best.sweeps_before + result.best_sweep,
        "is_combined": result.is_combined,
        "held_out_patterns": canvas.validation_patterns,
        "likelihood_per_pixel": _misfits(finished),
        "subsets": [count for each in finished for count in each.subsets],
        "probe_mode_power": (power / power.sum()).tolist(),
        "position_moves_rms_px": float(np.sqrt(np.square(moves).sum(1).mean())),
        "intensity_factors_spread": float(factors.std() / factors.mean()) if len(factors) > 1 else 0.0,
    }


def _misfits(finished: list[Refined]) -> list[float]:
    """Held-out misfit after 0, 1, 2 … sweeps; between rounds the lower of the one's end and the other's start."""
    values: list[float] = []
    for each in finished:
        first, *others = each.misfits
        values = [*values[:-1], min([first, *values[-1:]]), *others]
    return values


def _in_words(scores: dict[str, Any]) -> str:
    values, best, sweeps = scores["likelihood_per_pixel"], scores["best_sweep"], scores["sweeps"]
    has_held_out = bool(scores["held_out_patterns"])
    combined = ", with the low frequencies of the last sweep" if scores["is_combined"] else ""
    if best == 0:
        patterns = "the held-out patterns" if has_held_out else "the fit to the patterns"
        return f"refinement: {sweeps} sweeps did not improve {patterns}; the initial object is kept{combined}"
    kind = "held-out misfit" if has_held_out else "misfit of all patterns"
    return (
        f"refinement: best after {best} of {sweeps} sweeps, {kind} "
        f"{values[0]:.5g} -> {values[best]:.5g} per pixel{combined}"
    )
