"""Maximum-likelihood refinement: sweeps over the whole canvas from any start, with what is not known set free.

A sweep visits the patterns in interleaved subsets and moves the object after each of them, with momentum, as the
`unrolled` network does, but without a network. It begins in the first of the `GEARS`. What counts is the mean of the
objects that a sweep has passed through: each follows the photons of the last few subsets, their mean those of all
(Polyak & Juditsky 1992). When a sweep no longer improves the likelihood of pixels that no sweep uses, the next gear
follows: fewer, larger subsets and the exact likelihood, at last all patterns together. The best mean by that held-out
likelihood is what comes out, so that a refinement is never worse than its start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ptycho_torch.data.region import Batch, Region
from ptycho_torch.forward import Exposure
from ptycho_torch.physics.likelihood import poisson_nll_each
from ptycho_torch.physics.low_pass import slow_part, slowly_refined
from ptycho_torch.physics.optics import sign_board
from ptycho_torch.physics.patches import extract, extract_whole, place_whole, split_positions
from ptycho_torch.physics.phase_gradient import slow_phase
from ptycho_torch.physics.positions import affine_moves, best_offset, position_step
from ptycho_torch.physics.preconditioner import lift_slow_phase, slow_phase_lift
from ptycho_torch.physics.probe import (
    gather_shifted,
    illumination,
    orthogonal_modes,
    probe_power,
    probe_radius,
    shift_probe,
)
from ptycho_torch.physics.warp import affine_field, carried, smooth_field

FLOOR = 0.1
"""Fraction of the largest illumination below which a canvas pixel's step is held back."""
TILT_SWEEPS = (3, 6, 9, 12, 15, 18)
"""Sweeps after which the slow phase is read from the patterns' shifts."""
PROBE_FROM, INTENSITIES_FROM, POSITIONS_FROM = 2, 3, 4
"""The first sweeps that move what is free: the object has to be there before."""
SEARCH_RADII_PX = {3: 4, 4: 3, 5: 3, 6: 2, 7: 2, 8: 1, 9: 1, 10: 1, 12: 6, 14: 2, 16: 1, 20: 6, 22: 2, 24: 1}
"""After these sweeps positions are also sought on a square of this half side; until the last the gear stays."""
FAR_PX, CONFIRMED = 6, (0.15, 0.45)
"""A search this wide looks at the object where it is lit by more than these fractions of the largest illumination (not
at all, fully)."""
POSITION_MOMENTUM = 0.5
LARGEST_MOVE_PX = 0.5
"""A gradient step moves no position farther."""
CARRY, AFFINE_CARRY, LARGEST_CARRY_PX = 3.0, 6.0, 1.0
"""What the moves of a sweep have in common, nearby or everywhere, goes so much farther, object and all, and at most so
far."""
SIGNIFICANT = 2.0
"""A sweep has improved the held-out likelihood when the mean gain is this many times its standard error."""
AS_LIKELY = 1.0
"""Objects whose likelihoods differ by fewer standard errors are as likely as each other."""
FAR_FROM_NOISE, PATIENCE = 1.0, 3
"""Photon noise leaves about ½ a pixel; while more than this is left, so many sweeps without a gain shift no gear."""
IDLE_SWEEPS = 10
"""So many full-batch sweeps without an improvement end a refinement."""


@dataclass(frozen=True)
class Gear:
    """How to sweep: the likelihood and its softening, how many subsets go together, step and momentum."""

    likelihood: str
    background: float  # photons, see `exit_wave_correction`
    together: int  # subsets that move the object together; 0: all
    paces: tuple[tuple[float, float], ...]  # step and momentum of the first sweeps, the next, … and all that follow
    least_fall: float  # of the held-out likelihood in a sweep, relative, for this gear to go on

    def pace(self, sweeps: int) -> tuple[float, float]:
        """Step and momentum after so many sweeps in this gear."""
        return self.paces[min(sweeps // STRIDE, len(self.paces) - 1)]


PACES = ((1.0, 0.5), (0.5, 0.8), (0.5, 0.85), (0.5, 0.9))
"""Step and momentum in turn: long strides at first, then more and more of what was learned on the way."""
STRIDE = 3
"""Sweeps at each pace, and in each gear at least."""
SEEKING = (0.5, 0.5)
"""The pace where positions move: an object that goes its own way for long takes wrong places for granted."""
GEARS = (
    Gear("amplitude", 0.0, 1, PACES, 0.05),
    Gear("poisson", 0.03, 1, PACES, 0.003),
    Gear("poisson", 0.0, 2, ((1.0, 0.7),), 0.003),
    Gear("poisson", 0.0, 0, ((1.0, 0.9),), 0.0),
)


@dataclass(frozen=True)
class Freedom:
    """What a refinement may change beside the object, and what it takes for granted."""

    likelihood: str = "poisson"  # or amplitude, in all gears
    probe: bool = False
    positions: bool = False
    affine: bool = False  # positions move only as one affine map of the scan
    is_near: bool = False  # positions are not sought around, what is left is slow: the object moves along with them
    intensities: bool = False  # a factor for each pattern
    regulariser: Any = None  # an object with proximal(obj, step), called after each step of the object
    start: str = "flat"  # or network, whose slow phase is still to be read from the patterns' shifts, or refined

    @property
    def is_moving(self) -> bool:
        """Whether probe or positions change: objects before and after may then be shifted and tilted to each other."""
        return self.probe or self.positions


@dataclass
class Refined:
    """What came out, and the way there."""

    object: Tensor  # complex64 [H, W] on the region's canvas
    probe: Tensor  # complex64 [mode, N, N], in the unit of the region's probe
    positions: Tensor  # float64 [n, 2] on the canvas, in the region's order
    intensities: Tensor  # float32 [n], factor on the expected counts of each pattern
    first: Tensor | None = None  # the object that the refinement began from
    last: Tensor | None = None  # the object of its last sweep, be it the best or not
    last_probe: Tensor | None = None
    last_positions: Tensor | None = None
    held_out: Tensor = field(default_factory=lambda: torch.zeros(0))  # likelihood of each judge, in the scan's order
    best_sweep: int = 0  # the sweep whose result this is, 0 for the start
    is_interrupted: bool = False
    is_settled: bool = False  # with the slow parts of the last sweep, and perhaps the details of the start
    likelihood: list[float] = field(default_factory=list)  # held out, per pixel, after 0, 1, 2 … sweeps
    subsets: list[int] = field(default_factory=list)  # in how many steps each sweep went


def refine(
    region: Region,
    obj: Tensor,
    *,
    sweeps: int,
    freedom: Freedom = Freedom(),
    report: Callable[[int, float, Tensor], bool] | None = None,
) -> Refined:
    """Up to `sweeps` sweeps from `obj` `[H, W]` on the region's canvas, the probe and positions from the region.

    `report(sweep, held-out likelihood, object)` is called after each sweep; True from it, and Ctrl-C, end the
    refinement with the best so far.
    Source of the steps: ePIE and rPIE (Maiden et al. 2009, 2017), least-squares maximum likelihood (Odstrčil et al.
    2018), Poisson likelihood (Thibault & Guizar-Sicairos 2012).
    """
    course = Course(region, obj, freedom)
    course.judge(0)
    try:
        for sweep in range(1, sweeps + 1):
            course.sweep(sweep)
            value = course.judge(sweep)
            if report is not None and report(sweep, value, course.mean):
                course.result.is_interrupted = True
                break
            if course.is_over():
                break
    except KeyboardInterrupt:
        course.result.is_interrupted = True
    course.settle()
    return course.result


def standard_gain(before: Tensor, after: Tensor) -> float:
    """Mean fall of these likelihoods of patterns `[n]`, in standard errors."""
    gain = before - after
    return float(gain.mean() / (gain.std() / math.sqrt(len(gain)) + 1e-30)) if len(gain) > 1 else 0.0


class Course:
    """The moving state of a refinement."""

    def __init__(self, region: Region, obj: Tensor, freedom: Freedom) -> None:
        self.region, self.freedom = region, freedom
        self.obj, self.probe = obj.clone(), region.probe.clone()
        self.positions, self.intensities = region.positions.clone(), torch.ones(len(region), device=region.device)
        self.velocity, self.probe_velocity = torch.zeros_like(self.obj), torch.zeros_like(self.probe)
        self.position_velocity = torch.zeros_like(self.positions)
        self.board = sign_board(*self.probe.shape[-2:], device=region.device)
        self.lights = [region.illumination(subset) for subset in range(region.subsets)]
        self.lift = slow_phase_lift(region.probe, region.shape)
        self.mean, self.mean_probe = self.obj, self.probe
        self.gear, self.caution, self.idle, self.gain = 0 if freedom.start == "flat" else 1, 1.0, 0, 0.0
        self.in_gear = 0  # sweeps
        self.values = torch.zeros(0)
        self.result = Refined(self.obj, self.probe, self.positions.clone(), self.intensities.clone(), first=self.obj)

    @classmethod
    def at(cls, region: Region, refined: Refined, freedom: Freedom) -> Course:
        """Where a refinement has ended, in the last gear."""
        course = cls(region, refined.object, freedom)
        course.probe, course.gear = refined.probe, len(GEARS) - 1
        course.positions, course.intensities = refined.positions, refined.intensities
        return course

    def sweep(self, number: int) -> None:
        """Every pattern once, then what a whole sweep tells."""
        before = self.positions.clone()
        shifts: list[Tensor] | None = [] if self.freedom.start != "refined" and number in TILT_SWEEPS else None
        seen: list[Tensor] = []
        together = GEARS[self.gear].together or self.region.subsets
        firsts = range(0, self.region.subsets, together)
        self.mean, self.mean_probe = torch.zeros_like(self.obj), torch.zeros_like(self.probe)
        for first in firsts:
            self._visit(range(first, min(first + together, self.region.subsets)), number, shifts, seen)
            self.mean = self.mean + self.obj / len(firsts)
            self.mean_probe = self.mean_probe + self.probe / len(firsts)
        if shifts:
            phase = slow_phase(torch.cat(shifts), self.positions[torch.cat(seen)], self.probe, self.region.shape)
            turn = torch.polar(torch.ones_like(phase), phase)
            self.obj, self.velocity, self.mean = self.obj * turn, self.velocity * turn, self.mean * turn
        if self._is_free("probe", number):
            self._settle_probe()
        if self.freedom.intensities:
            mean = self.intensities.mean()
            self.intensities, factor = self.intensities / mean, mean.sqrt()
            self.obj, self.mean = self.obj * factor, self.mean * factor
        if self._searches and number in SEARCH_RADII_PX:
            self._search(SEARCH_RADII_PX[number])
        if self.freedom.affine and self._is_free("positions", number):
            self.positions = self._inside(affine_moves(self.region.positions, self.positions))
        if self.freedom.is_near and number > POSITIONS_FROM:
            self._carry(before)
        self.in_gear += 1
        self.result.subsets.append(len(firsts))

    @property
    def _searches(self) -> bool:
        return self.freedom.positions and not self.freedom.affine and not self.freedom.is_near

    def _is_free(self, what: str, number: int) -> bool:
        first = {"probe": PROBE_FROM, "intensities": INTENSITIES_FROM, "positions": POSITIONS_FROM}[what]
        return getattr(self.freedom, what) and number >= first

    def _visit(self, subsets: range, number: int, shifts: list[Tensor] | None, seen: list[Tensor]) -> None:
        """One step of the object, and of what else is free, from these subsets together."""
        gear, shape, propagator = GEARS[self.gear], self.region.shape, self.region.forward.propagator
        gradient, probe_gradient = torch.zeros_like(self.obj), torch.zeros_like(self.probe)
        light, cover = torch.zeros(shape, device=self.region.device), torch.zeros_like(self.board)
        for batch in (batch for subset in subsets for batch in self.region.batches(subset)):
            probe, corners, fraction = self.probe_of(batch)
            patches = extract_whole(self.obj, corners, self.region.n)
            correction, photons = self.correction(batch, probe, patches, background=gear.background, shifts=shifts)
            seen.append(batch.index)
            gradient += place_whole((probe.conj() * correction).sum(1), corners, shape)
            if self.freedom.is_moving:
                light += place_whole(illumination(probe), corners, shape)
            if self._is_free("probe", number):
                factors = self._amplitude_factors(batch)
                probe_gradient += gather_shifted(factors * patches.conj().unsqueeze(1) * correction, fraction)
                cover += patches.abs().square().sum(0)
            if self._is_free("positions", number):
                self._move(batch, position_step(probe, patches, batch.amplitude, batch.valid, propagator=propagator))
            if self._is_free("intensities", number):
                self._brighten(batch, photons)
        if not self.freedom.is_moving:
            light = torch.stack([self.lights[subset] for subset in subsets]).sum(0)
        is_seeking = self.freedom.positions and self.gear < len(GEARS) - 1
        step, momentum = SEEKING if is_seeking else gear.pace(self.in_gear)
        direction = lift_slow_phase(gradient / (light + FLOOR * light.max()), self.obj, self.lift)
        if self.caution < 1:
            direction = torch.lerp(slow_part(direction), direction, self.caution)
        self.velocity = momentum * self.velocity + step * direction
        self.obj = self.obj + self.velocity
        if self.freedom.regulariser is not None:
            self.obj = self.freedom.regulariser.proximal(self.obj, step * len(subsets) / self.region.subsets)
        if self._is_free("probe", number):
            direction = probe_gradient / (cover + FLOOR * cover.max())
            self.probe_velocity = momentum * self.probe_velocity + self.caution * step * direction
            self.probe = self.probe + self.probe_velocity

    def correction(
        self,
        batch: Batch,
        probe: Tensor,
        patches: Tensor,
        *,
        background: float = 0.0,
        shifts: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the counts ask of the exit waves of a batch, and its patterns' intensities, in the present gear."""
        likelihood = GEARS[self.gear].likelihood if self.freedom.likelihood == "poisson" else self.freedom.likelihood
        options: dict[str, Any] = {"likelihood": likelihood, "background": background, "shifts": shifts}
        return self.region.forward.correction(patches, probe, batch.amplitude, batch.valid, **options)

    def probe_of(self, batch: Batch, probe: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The probe (or that given) as each pattern of a batch sees it, the corners of its patches, and its fraction
        of a pixel."""
        whole, fraction = split_positions(self.positions[batch.index])
        probe = shift_probe(self.probe if probe is None else probe, fraction) if self.freedom.is_moving else batch.probe
        if self.freedom.intensities:
            probe = probe * self._amplitude_factors(batch)
        return probe, whole - self.region.n // 2, fraction

    def _amplitude_factors(self, batch: Batch) -> Tensor:
        return self.intensities[batch.index, None, None, None].sqrt()

    def _move(self, batch: Batch, step: Tensor) -> None:
        velocity = POSITION_MOMENTUM * self.position_velocity[batch.index] + step.double()
        self.position_velocity[batch.index] = velocity.clamp(-LARGEST_MOVE_PX, LARGEST_MOVE_PX)
        moved = self.positions[batch.index] + self.position_velocity[batch.index]
        self.positions[batch.index] = self._inside(moved)

    def _brighten(self, batch: Batch, photons: Tensor) -> None:
        """Half a step, in logarithms, towards the intensity that the pattern was counted with."""
        counted = (batch.amplitude.square() * batch.valid).sum((-2, -1))
        self.intensities[batch.index] *= (counted / photons).clamp(0.5, 2.0).sqrt()

    def _search(self, radius: int) -> None:
        obj = self._confirmed() if radius >= FAR_PX else self.obj
        for batch in self.region.batches():
            probe, corners, _ = self.probe_of(batch)
            offset = best_offset(
                obj,
                probe,
                corners,
                batch.amplitude,
                batch.valid,
                radius=radius,
                propagator=self.region.forward.propagator,
            )
            self.positions[batch.index] = self._inside(self.positions[batch.index] + offset)
        self.position_velocity.zero_()

    def _carry(self, before: Tensor) -> None:
        """What the sweep's moves have in common within a probe's radius goes farther, and the object along with it.

        An object follows its patterns, so a distortion that object and positions share takes many sweeps to undo.
        """
        moves, shape = self.positions - before, self.region.shape
        if self.freedom.affine:
            field = AFFINE_CARRY * affine_field(before, moves, shape)
        else:
            field = CARRY * smooth_field(before, moves, shape, sigma=probe_radius(self.probe))
        field = field.clamp(-LARGEST_CARRY_PX, LARGEST_CARRY_PX)
        moves = torch.stack([extract(each, before, 1)[:, 0, 0] for each in field], -1)
        self.positions = self._inside(self.positions + moves)
        self.obj, self.velocity, self.mean = (carried(each, field) for each in (self.obj, self.velocity, self.mean))

    def _confirmed(self) -> Tensor:
        """The object where more than one pattern lights it, and its mean elsewhere: a pattern at the rim that stands in
        a wrong place has painted its own object there, which would confirm the place."""
        light = torch.zeros(self.region.shape, device=self.region.device)
        for batch in self.region.batches():
            probe, corners, _ = self.probe_of(batch)
            light += place_whole(illumination(probe).expand(len(corners), -1, -1), corners, self.region.shape)
        dim, bright = CONFIRMED
        weight = ((light / light.max() - dim) / (bright - dim)).clamp(0, 1)
        mean = (weight * self.obj).sum() / weight.sum()
        return torch.lerp(mean.expand_as(self.obj), self.obj, weight.to(self.obj.dtype))

    def _inside(self, positions: Tensor) -> Tensor:
        """Positions held where their windows stay on the canvas."""
        half = self.region.n // 2
        limits = torch.tensor(self.region.shape, device=positions.device) - self.region.n + half - 1
        return torch.minimum(positions.clamp_min(half), limits.to(positions.dtype))

    def _settle_probe(self) -> None:
        """The probe keeps its power, the object takes the rest; modes stay orthogonal, strongest first."""
        factor = (probe_power(self.region.probe) / probe_power(self.probe)).sqrt()
        probes, objects = (self.probe, self.probe_velocity, self.mean_probe), (self.obj, self.velocity, self.mean)
        self.obj, self.velocity, self.mean = (each / factor for each in objects)
        turn = factor * orthogonal_modes(self.probe)
        self.probe, self.probe_velocity, self.mean_probe = (torch.einsum("mk,kyx->myx", turn, each) for each in probes)

    def judge(self, sweep: int) -> float:
        """Likelihood per pixel of the pixels held out (of all, where none are); keeps the best state."""
        values = self._likelihoods()
        value = float(values.mean())
        if sweep == 0 and self.freedom.start == "network" and value > FAR_FROM_NOISE:
            self.gear = 0
        if sweep:
            self.gain = standard_gain(self.values, values)
        self.values, result = values, self.result
        result.last, result.last_probe, result.last_positions = self.mean, self.mean_probe, self.positions.clone()
        if not result.likelihood or (math.isfinite(value) and value < min(result.likelihood)):
            result.object, result.probe, result.best_sweep, result.held_out = self.mean, self.mean_probe, sweep, values
            result.positions, result.intensities = self.positions.clone(), self.intensities.clone()
        result.likelihood.append(value)
        return value

    def settle(self) -> None:
        """Slow parts of the last object with the details of the start, or of the best, the first that is as likely as
        the best and no less than the start.

        What is held out hardly sees slow waves of the phase; what is fitted does, and says more with every sweep. Of
        details that are equally likely the start's are those with less noise.
        """
        result, light = self.result, torch.stack(self.lights).sum(0)
        first, last = result.first, result.last  # an interrupted sweep has left no mean
        if self.freedom.is_moving or first is None or last is None or not last.isfinite().all():
            return
        for details in (first, result.object):
            self.mean = slowly_refined(details, last, light)
            values = self._likelihoods()
            if standard_gain(result.held_out, values) > -AS_LIKELY and float(values.mean()) <= result.likelihood[0]:
                result.object, result.held_out, result.is_settled = self.mean, values, True
                return

    def _likelihoods(self) -> Tensor:
        parts = []
        for batch in self.region.judging():
            probe, corners, _ = self.probe_of(batch, self.mean_probe)
            parts.append(self._likelihood(self.region.forward.counts(self.mean, Exposure(probe, corners)), batch))
        return torch.cat(parts).double()

    def _likelihood(self, predicted: Tensor, batch: Batch) -> Tensor:
        if self.freedom.likelihood == "amplitude":
            errors = (predicted.sqrt() - batch.amplitude).square() * batch.valid
            return 0.5 * errors.sum((-2, -1)) / batch.valid.sum((-2, -1))
        return poisson_nll_each(predicted, batch.amplitude.square(), batch.valid)

    def is_over(self) -> bool:
        """After a sweep: shifts gears when it has brought little; True when there is nothing left to gain."""
        before, now = self.result.likelihood[-2:]
        if not math.isfinite(now):
            return True
        if self.freedom.positions and self.freedom.is_near:
            return False  # every gear asks for an object that stands still
        if self.gear < len(GEARS) - 1:
            searching = self.freedom.positions and len(self.result.likelihood) <= max(SEARCH_RADII_PX)
            slow = before - now < GEARS[self.gear].least_fall * before and not self.freedom.positions
            self.idle = self.idle + 1 if self.gain < SIGNIFICANT or slow else 0
            stands = self.idle > (PATIENCE if now > FAR_FROM_NOISE else 0)
            if stands and self.in_gear >= STRIDE and not searching:
                self._shift()
            return False
        is_best = self.result.best_sweep == len(self.result.likelihood) - 1
        self.idle = 0 if is_best and self.gain > 1 else self.idle + 1
        if self.gain < -1:
            self.caution /= 2
            self.velocity = slow_part(self.velocity)
        else:
            self.caution = min(1.0, 1.3 * self.caution)
        return self.idle > IDLE_SWEEPS

    def _shift(self) -> None:
        """The next gear; the last one from rest, and from the best state where the sweeps have made it worse."""
        self.gear, self.idle, self.in_gear = self.gear + 1, 0, 0
        if self.gain < -SIGNIFICANT and self.freedom.start != "flat":
            self.gear = len(GEARS) - 1
            self.obj, self.probe, self.caution = self.result.object, self.result.probe, 0.5
            self.positions, self.intensities = self.result.positions.clone(), self.result.intensities.clone()
        elif self.gear == len(GEARS) - 1:
            self.obj, self.probe = self.mean, self.mean_probe
        if self.gear == len(GEARS) - 1:
            self.velocity = torch.zeros_like(self.velocity)
            self.probe_velocity = torch.zeros_like(self.probe_velocity)
