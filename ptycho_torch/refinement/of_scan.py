"""A reconstruction, its probe and its scan, refined: what joins `infer` to the refinement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.held_out import Judges, pick_judges
from ptycho_torch.data.region import Region, on_canvas
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import refining_subsets
from ptycho_torch.networks.pretrained import posterior_mean
from ptycho_torch.physics.probe import with_more_modes
from ptycho_torch.predictors import Start
from ptycho_torch.refinement.course import AS_LIKELY, Freedom, Refined, refine, standard_gain
from ptycho_torch.refinement.denoising import denoise, in_words

MARGIN_PX = 12
"""Room on the canvas for positions that move."""
SPEAK_EVERY = 5
"""Sweeps between two progress lines."""


SEARCH_SWEEPS, NEAR_SWEEPS, MOST_NEAR_ROUNDS, FIXED_SWEEPS = 30, 20, 4, 20
"""Where positions move: sweeps that seek them, sweeps of each round near them, and with the places found."""


@dataclass(frozen=True, eq=False)
class RefinedScan:
    """What a refinement has found."""

    obj: Tensor  # complex64 [H, W], transmission
    undenoised: Tensor | None  # the same before a denoising that was kept
    origin: tuple[int, int]  # (y, x) of obj[0, 0] on the scan's object grid
    scan: Scan  # with the refined probe and positions
    intensities: np.ndarray  # float32 [n], for each pattern of the scan; 1 where it was not used
    scores: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Progress:
    """Where a refinement stands after a sweep."""

    sweep: int  # from 1, over all rounds
    sweeps: int  # at most
    held_out: float  # misfit per pixel of what is held out, lower is better
    obj: Tensor  # complex64 [H, W], transmission, the object so far
    origin: tuple[int, int]  # (y, x) of obj[0, 0] on the scan's object grid


@dataclass(frozen=True, eq=False)
class _Round:
    """Sweeps from one start at one guess of the scan."""

    result: Refined
    canvas: Region
    scan: Scan  # before
    freedom: Freedom
    begin: int  # sweeps before

    @property
    def sweeps(self) -> int:
        return len(self.result.likelihood) - 1


def refined_scan(
    obj: Tensor,
    region: Region,
    start: Start,
    scan: Scan,
    chosen: np.ndarray,
    *,
    sweeps: int,
    freedom: Freedom,
    modes: int = 1,
    denoising: bool = False,
    batch_size: int | None = None,
    on_sweep: Callable[[Progress], bool | None] | None = None,
    say: Callable[[str], object],
) -> RefinedScan:
    """Refine `obj`, transmission on the canvas of `region`, with the patterns `chosen`, by up to `sweeps` sweeps.

    What is free beside the object is `freedom`'s; `modes` are added up to this number; with `denoising` a network then
    takes out photon noise; `batch_size` patterns go together.

    Where positions move, in rounds (`rounds_of`), each at the positions that the one before has found. A network looks
    at the patterns again, for an object that remembers nothing of the wrong places; where there is none the object goes
    on. The last round is the result, unless the held-out pixels find the first likelier.
    """
    chosen, device = np.unique(chosen), region.device
    judges = judges_of(scan, chosen, start, freedom)
    with_modes = with_more_modes(torch.as_tensor(scan.probe), modes)
    positions, given = freedom.positions, scan.positions
    now, begin, rounds = replace(scan, probe=with_modes.numpy()), 0, list[_Round]()

    def report(sweep: int, value: float, reached: Tensor) -> bool:
        if (begin + sweep) % SPEAK_EVERY == 0 or begin + sweep == sweeps:
            say(f"sweep {begin + sweep}/{sweeps}  held-out likelihood {value:.5g} a pixel")
        if on_sweep is None:
            return False
        unit = canvas.level / start.scale.value
        return bool(on_sweep(Progress(begin + sweep, sweeps, value, unit * reached, canvas.origin)))

    for count, free in rounds_of(sweeps, freedom):
        if rounds:
            end, region = _at_end(rounds[-1].result), rounds[-1].canvas
            now, obj = _with(end, region, now, start), end.object * (region.level / start.scale.value)
            begin += rounds[-1].sweeps
            if start.looks_again:
                say("the network looks again, at the positions found so far")
                region = start.region(now, chosen, batch_size=batch_size, judges=judges, device=device)
                obj = start.model(region)
        probe = start.network_probe(now.probe).to(device)
        canvas = Region(
            now,
            chosen,
            probe,
            subsets=_subsets(now, chosen, probe, positions=positions),
            batch_size=batch_size,
            judges=judges,
            margin=MARGIN_PX if positions else 0,
            device=device,
        )
        first = on_canvas(obj * (start.scale.value / canvas.level), region.origin, canvas)
        result = refine(canvas, first, sweeps=count, freedom=free, report=report)
        rounds.append(_Round(result, canvas, now, free, begin))
        if result.is_interrupted:
            break
    best = _best_of(rounds)
    scores = _scores(rounds, best, given)
    say(_in_words(scores))
    result, canvas = best.result, best.canvas
    unit, undenoised = canvas.level / start.scale.value, None
    if denoising:
        found = denoise(canvas, result, best.freedom, posterior_mean().to(canvas.device))
        say(in_words(found))
        undenoised = unit * result.object if found.is_kept else None
        result, scores["denoising"] = found.refined, found.scores()
    return RefinedScan(
        obj=unit * result.object,
        undenoised=undenoised,
        origin=canvas.origin,
        scan=_with(best.result, canvas, best.scan, start),
        intensities=_in_scan_order(result.intensities.cpu().numpy(), canvas, np.ones(len(scan), np.float32)),
        scores=scores,
    )


def _best_of(rounds: list[_Round]) -> _Round:
    """The last round, where all that was found comes together, if it is as likely as the first and as its start."""
    first, last = rounds[0].result, rounds[-1].result
    as_likely = standard_gain(first.held_out, last.held_out) >= -AS_LIKELY
    return rounds[-1] if as_likely and float(last.held_out.mean()) <= first.likelihood[0] else rounds[0]


def rounds_of(sweeps: int, freedom: Freedom) -> list[tuple[int, Freedom]]:
    """How many sweeps from each start, and what is free in them.

    Where positions move and there are sweeps enough: first they are sought, then they settle in rounds, then the object
    is refined at the places found. Else all sweeps in one.
    """
    near = min((sweeps - SEARCH_SWEEPS - FIXED_SWEEPS) // NEAR_SWEEPS, MOST_NEAR_ROUNDS)
    if not freedom.positions or near < 1:
        return [(sweeps, freedom)]
    later = replace(freedom, start="refined" if freedom.start == "flat" else freedom.start)
    settling = [(NEAR_SWEEPS, replace(later, is_near=True))] * near
    left = sweeps - SEARCH_SWEEPS - near * NEAR_SWEEPS
    first = replace(freedom, is_near=freedom.affine and freedom.start != "flat")  # nothing is sought for an affine map
    return [(SEARCH_SWEEPS, first), *settling, (left, replace(later, positions=False, affine=False))]


def judges_of(scan: Scan, chosen: np.ndarray, start: Start, freedom: Freedom) -> Judges:
    """The judges of a refinement of this freedom; the network before it must not see what they hold out."""
    moving = freedom.positions or freedom.intensities
    return pick_judges(scan.positions[chosen], start.network_probe(scan.probe), moving=moving)


def _subsets(scan: Scan, chosen: np.ndarray, probe: Tensor, *, positions: bool) -> int:
    """Fewer where positions move: an object that follows every pattern at once hides where each was taken."""
    most = refining_subsets(scan, chosen, probe)
    return max(1, round(0.75 * most)) if positions else most


def _at_end(result: Refined) -> Refined:
    """What the last sweep has left: positions go on where the held-out likelihood of the object stands still."""
    obj, probe, positions = result.last, result.last_probe, result.last_positions
    if obj is None or probe is None or positions is None or not (obj.isfinite().all() and probe.isfinite().all()):
        return result
    return replace(result, object=obj, probe=probe, positions=positions)


def _with(result: Refined, canvas: Region, scan: Scan, start: Start) -> Scan:
    unit = start.network_unit(scan.n) * canvas.level  # of the canvas's probe, in that of the scan's
    is_same = torch.equal(result.probe, canvas.probe)
    origin = (
        scan.probe_origin
        if is_same or scan.probe_origin.startswith("refined")
        else f"refined, {scan.probe_origin} at first"
    )
    moved = result.positions.cpu().numpy() + np.array(canvas.origin)
    return replace(
        scan,
        probe=(result.probe / unit).cpu().numpy(),
        probe_origin=origin,
        positions=_in_scan_order(moved, canvas, scan.positions.copy()),
    )


def _in_scan_order(values: np.ndarray, canvas: Region, others: np.ndarray) -> np.ndarray:
    others[canvas.indices] = values
    return others


def _scores(rounds: list[_Round], best: _Round, given: np.ndarray) -> dict[str, Any]:
    result, canvas = best.result, best.canvas
    moves = result.positions.cpu().numpy() + np.array(canvas.origin) - given[canvas.indices]
    power = result.probe.abs().square().sum((-2, -1))
    factors = result.intensities
    return {
        "sweeps": sum(each.sweeps for each in rounds),
        "rounds": [each.sweeps for each in rounds],
        "best_sweep": best.begin + result.best_sweep,
        "is_settled": result.is_settled,
        "judging_patterns": canvas.judges,
        "likelihood_per_pixel": _course(rounds),
        "subsets": [count for each in rounds for count in each.result.subsets],
        "probe_mode_power": (power / power.sum()).tolist(),
        "position_moves_rms_px": float(np.sqrt(np.square(moves).sum(1).mean())),
        "intensity_factors_spread": float(factors.std() / factors.mean()) if len(factors) > 1 else 0.0,
    }


def _course(rounds: list[_Round]) -> list[float]:
    """Held-out likelihood after 0, 1, 2 … sweeps; between rounds the lower of the one's end and the other's start."""
    values: list[float] = []
    for each in rounds:
        first, *others = each.result.likelihood
        values = [*values[:-1], min([first, *values[-1:]]), *others]
    return values


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
