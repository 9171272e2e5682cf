"""Maximum-likelihood refinement: sweeps over the whole canvas from any initial object, with further unknowns.

A sweep visits the patterns in interleaved subsets and updates the object after each of them, with momentum. Its result
is the mean of the objects after its updates: a single one has the noise of the last few subsets, the mean that of all
patterns (Polyak & Juditsky 1992). When a sweep no longer decreases the held-out misfit, the next segment of the
schedule follows: larger subsets and the exact likelihood, in the last one all patterns together. The result is the
sweep with the lowest held-out misfit, or the initial object if none is below it.

    run = init(region, obj, …);  step(run);  stop(run)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum, auto

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.canvas import Canvas
from ptycho_torch.data.region import Region
from ptycho_torch.physics.likelihood import Likelihood, Poisson, as_likelihood
from ptycho_torch.physics.low_pass import low_pass
from ptycho_torch.physics.positions import position_step
from ptycho_torch.physics.preconditioner import Acceleration, slow_phase_acceleration
from ptycho_torch.physics.probe import gather_shifted, illumination, probe_power
from ptycho_torch.physics.regularisers import Regulariser
from ptycho_torch.refinement import steps
from ptycho_torch.refinement.schedule import SCHEDULE, Schedule, Segment
from ptycho_torch.refinement.state import OBJECT_ONLY, Initial, Refined, State, Unknowns
from ptycho_torch.refinement.validation import History, combine_with_initial, held_out_misfits


@dataclass(frozen=True, eq=False)
class Progress:
    """The state of a refinement after a sweep, for `on_sweep`."""

    sweep: int
    sweeps: int  # asked for
    held_out: float  # misfit per pixel of the held-out patterns, lower is better
    obj: Tensor = field(repr=False)  # complex64 [H, W] on the canvas
    origin: tuple[int, int]  # (y, x) of obj[0, 0] on the scan's object grid


OnSweep = Callable[[Progress], object]
"""Called after each sweep; ends the refinement when it returns True."""


@dataclass(frozen=True)
class Control:
    """The place of a refinement in its schedule."""

    segment: int = 0
    sweeps: int = 0  # in this segment
    idle: int = 0  # sweeps since the last gain
    damping: float = 1.0


class Action(Enum):
    """The consequence of a sweep."""

    GO_ON = auto()
    DAMP = auto()  # smaller steps of the high spatial frequencies
    NEXT_SEGMENT = auto()
    BEST_AGAIN = auto()  # from the best estimate, at rest, in the last segment
    STOP = auto()


@dataclass(eq=False)
class Run:
    """A refinement in progress."""

    region: Region
    unknowns: Unknowns
    likelihood: str | Likelihood
    start: Initial
    schedule: Schedule
    regulariser: Regulariser | None
    over_relax: bool
    initial: Tensor
    state: State
    history: History
    illuminations: list[Tensor]  # of each subset, [H, W]
    acceleration: Acceleration  # of slow phase variations
    control: Control = Control()
    subsets: list[int] = field(default_factory=list)

    @property
    def segment(self) -> Segment:
        """The present segment of the schedule."""
        return self.schedule.segments[self.control.segment]

    @property
    def is_in_last_segment(self) -> bool:
        """Whether no other segment follows."""
        return self.control.segment == len(self.schedule.segments) - 1

    @property
    def sweep(self) -> int:
        """Number of finished sweeps."""
        return len(self.subsets)

    def misfits(self) -> Tensor:
        """Of each held-out pattern, with the means of the last sweep."""
        return held_out_misfits(self.region, self.state.mean, self.unknowns, self.likelihood)


def refine(
    region: Region,
    obj: Tensor,
    *,
    sweeps: int,
    unknowns: Unknowns = OBJECT_ONLY,
    likelihood: str | Likelihood = "poisson",
    start: Initial = "flat",
    schedule: Schedule = SCHEDULE,
    regulariser: Regulariser | None = None,
    over_relax: bool = False,
    on_sweep: OnSweep | None = None,
) -> Refined:
    """Up to `sweeps` sweeps from `obj` `[H, W]` on the region's canvas, the probe and positions from the region.

    `likelihood`: poisson, amplitude, or an object (see `Likelihood`), which then holds in all segments. `start` is the
    origin of `obj`. A `regulariser`'s proximal step follows each update of the object. With `over_relax` positions are
    assumed to be nearly right: they are not searched, the common part of their moves is over-relaxed, and no sweep ends
    the refinement early. Ctrl-C, or an `on_sweep` that returns True, ends the refinement with the best so far. Source
    of the steps: ePIE and rPIE (Maiden et al. 2009, 2017), least-squares maximum likelihood (Odstrčil et al. 2018),
    Poisson likelihood (Thibault & Guizar-Sicairos 2012).
    """
    run = init(
        region,
        obj,
        unknowns=unknowns,
        likelihood=likelihood,
        start=start,
        schedule=schedule,
        regulariser=regulariser,
        over_relax=over_relax,
    )
    is_interrupted = False
    try:
        for sweep in range(1, sweeps + 1):
            misfit = step(run)
            progress = Progress(sweep, sweeps, misfit, run.state.mean_object, region.origin)
            answer = on_sweep(progress) if on_sweep is not None else None
            if isinstance(answer, (bool, np.bool_)) and answer:
                is_interrupted = True
                break
            if stop(run):
                break
    except KeyboardInterrupt:
        is_interrupted = True
    return replace(result(run), is_interrupted=is_interrupted)


def init(
    region: Region,
    obj: Tensor,
    *,
    unknowns: Unknowns = OBJECT_ONLY,
    likelihood: str | Likelihood = "poisson",
    start: Initial = "flat",
    schedule: Schedule = SCHEDULE,
    regulariser: Regulariser | None = None,
    over_relax: bool = False,
) -> Run:
    """A refinement before its first sweep; the arguments are those of `refine`."""
    state = State.initial(region, obj)
    run = Run(
        region,
        unknowns,
        likelihood,
        start,
        schedule,
        regulariser,
        over_relax,
        initial=state.object,
        state=state,
        history=History(best=state.mean, last=state.mean),
        illuminations=[region.illumination(subset) for subset in range(region.subsets)],
        acceleration=slow_phase_acceleration(
            region.probe,
            region.shape,
            unit=region.uniform_transmission,
            propagator=region.forward.propagator,
        ),
    )
    misfit = run.history.add(state.mean, run.misfits())
    run.control = Control(segment=first_segment(schedule, start, misfit))
    return run


def first_segment(schedule: Schedule, start: Initial, misfit: float) -> int:
    """The first segment for a flat object and for a network's with a misfit far above photon noise, else the second."""
    is_far = start == "flat" or (start == "network" and misfit > schedule.noise_misfit)
    return 0 if is_far else min(1, len(schedule.segments) - 1)


def step(run: Run) -> float:
    """One sweep: every pattern once, then the steps after a sweep. Returns the held-out misfit per pixel."""
    region, unknowns, schedule, number = run.region, run.unknowns, run.schedule, run.sweep + 1
    before = run.state.positions.clone()
    shifts_with_ramps = region.forward.propagator.shifts_with_phase_ramps
    reads_phase = shifts_with_ramps and run.start != "refined" and number in schedule.phase_gradient_sweeps
    shifts: list[Tensor] | None = [] if reads_phase else None
    seen: list[Tensor] = []
    together = run.segment.subsets_per_update or region.subsets
    firsts = range(0, region.subsets, together)
    state = run.state = replace(
        run.state,
        mean_object=torch.zeros_like(run.state.object),
        mean_probe=torch.zeros_like(run.state.probe),
    )
    for first in firsts:
        subsets = range(first, min(first + together, region.subsets))
        state = _update(run, state, subsets, number, updates=len(firsts), shifts=shifts, seen=seen)
        state = replace(
            state,
            mean_object=state.mean_object + state.object / len(firsts),
            mean_probe=state.mean_probe + state.probe / len(firsts),
        )
    if shifts:
        state = steps.add_slow_phase(state, torch.cat(shifts), torch.cat(seen))
    if unknowns.probe and number >= schedule.probe_from:
        state = steps.normalise_probe(state, probe_power(region.probe))
    if unknowns.intensities == "drift":
        state = steps.as_drift(state, region.indices, degree=schedule.drift_degree)
    if unknowns.has_intensities:
        state = steps.normalise_intensities(state)
    if unknowns.has_positions:
        state = _after_the_sweep(run, state, number, before)
    run.state = state
    run.control = replace(run.control, sweeps=run.control.sweeps + 1)
    run.subsets.append(len(firsts))
    return run.history.add(state.mean, run.misfits())


@dataclass(eq=False)
class _Asked:
    """What the patterns of some subsets ask of the object and the probe, summed."""

    canvas: Canvas
    probe_gradient: Tensor  # complex [mode, N, N]
    object_power: Tensor  # Σ_j |O_j|², [N, N]


def _update(
    run: Run,
    state: State,
    subsets: range,
    number: int,
    *,
    updates: int,
    shifts: list[Tensor] | None,
    seen: list[Tensor],
) -> State:
    """One update of the object and of the other unknowns, from these subsets together."""
    moves_probe = run.unknowns.probe and number >= run.schedule.probe_from
    asked = _asked(run, state, subsets, number, moves_probe=moves_probe, shifts=shifts, seen=seen)
    size, momentum = _step_of(run)
    state = steps.move_object(
        state,
        asked.canvas,
        acceleration=run.acceleration,
        step=size,
        momentum=momentum,
        damping=run.control.damping,
        regulariser=run.regulariser,
        updates=updates,
    )
    if not moves_probe:
        return state
    size *= run.control.damping
    return steps.move_probe(state, asked.probe_gradient, asked.object_power, step=size, momentum=momentum)


def _asked(
    run: Run,
    state: State,
    subsets: range,
    number: int,
    *,
    moves_probe: bool,
    shifts: list[Tensor] | None,
    seen: list[Tensor],
) -> _Asked:
    """What these subsets ask for; positions and intensities that are free move on the way, in place."""
    region, unknowns, schedule, background = run.region, run.unknowns, run.schedule, run.segment.background_photons
    is_poisson = isinstance(as_likelihood(run.likelihood), Poisson)
    likelihood = run.segment.likelihood if is_poisson else run.likelihood
    propagator = region.forward.propagator
    moves_positions = unknowns.has_positions and number >= schedule.positions_from
    moves_intensities = unknowns.has_intensities and number >= schedule.intensities_from
    canvas = Canvas.empty(region.origin, region.shape, device=region.device)
    probe_gradient = torch.zeros_like(state.probe)
    object_power = torch.zeros(state.probe.shape[-2:], device=region.device)
    for batch in (batch for subset in subsets for batch in region.batches(subset)):
        at = state.exposure(batch, unknowns)
        patches = region.forward.patches(state.object, at)
        correction, photons = region.forward.correction(
            patches,
            at.probe,
            batch.amplitude,
            batch.valid,
            likelihood=likelihood,
            background=background,
            shifts=shifts,
            least=batch.least,
        )
        seen.append(batch.index)
        light = illumination(at.probe) if unknowns.has_free_gauge else None
        canvas = canvas.lay((at.probe.conj() * correction).sum(1), at.corners, light)
        if moves_probe:
            assert at.fraction is not None
            brightness = (batch.intensities * state.intensities[batch.index])[:, None, None]
            waves = brightness.sqrt().unsqueeze(1) * patches.conj().unsqueeze(1) * correction
            probe_gradient += gather_shifted(waves, at.fraction)
            object_power += (brightness * patches.abs().square()).sum(0)
        if moves_positions:
            moves = position_step(at.probe, patches, batch.amplitude, batch.valid, propagator=propagator)
            steps.move_positions(state, region, batch, moves, schedule)
        if moves_intensities:
            steps.move_intensities(state, batch, photons, schedule)
    if not unknowns.has_free_gauge:
        canvas = canvas.weighed(torch.stack([run.illuminations[subset] for subset in subsets]).sum(0))
    return _Asked(canvas, probe_gradient, object_power)


def _step_of(run: Run) -> tuple[float, float]:
    """Step size and momentum of the present sweep."""
    if run.unknowns.has_positions and not run.is_in_last_segment:
        return run.schedule.steps_with_positions
    return run.segment.step(run.control.sweeps, sweeps_per_step=run.schedule.sweeps_per_step)


def _after_the_sweep(run: Run, state: State, number: int, before: Tensor) -> State:
    """Search, affine fit and over-relaxation of the positions, by unknowns and schedule."""
    region, unknowns, schedule = run.region, run.unknowns, run.schedule
    radius = dict(schedule.position_search_radii_px).get(number)
    if radius is not None and unknowns.positions == "free" and not run.over_relax:
        confirmed = schedule.confirmed_illumination if radius >= schedule.confirmed_search_from_px else None
        steps.search_positions(state, region, unknowns, radius=radius, confirmed=confirmed)
    if unknowns.positions == "affine" and number >= schedule.positions_from:
        state = steps.fit_affine_positions(state, region)
    if run.over_relax and number > schedule.positions_from:
        state = steps.over_relax_positions(state, before, region, unknowns, schedule)
    return state


def stop(run: Run) -> bool:
    """The stopping rule: advances the schedule after a sweep; True when the refinement ends."""
    run.control, action = next_control(run)
    if action is Action.DAMP:
        run.state = replace(run.state, object_velocity=low_pass(run.state.object_velocity))
    elif action is Action.BEST_AGAIN:
        best = run.history.best
        run.state = replace(
            run.state.at_rest(),
            object=best.object,
            probe=best.probe,
            positions=best.positions.clone(),
            intensities=best.intensities.clone(),
        )
    elif action is Action.NEXT_SEGMENT and run.is_in_last_segment:
        run.state = replace(run.state.at_rest(), object=run.state.mean_object, probe=run.state.mean_probe)
    return action is Action.STOP


def next_control(run: Run) -> tuple[Control, Action]:
    """The place of the next sweep in the schedule, and the action before it.

    A segment ends when its sweeps no longer decrease the held-out misfit; the last one begins without momentum, and
    from the best estimate if the misfit has increased. In the last one, a sweep that increases the misfit damps the
    steps.
    """
    control, schedule, history = run.control, run.schedule, run.history
    before, now = history.misfits[-2:]
    if not math.isfinite(now):
        return control, Action.STOP
    if run.unknowns.has_positions and run.over_relax:
        return control, Action.GO_ON  # the other segments need fixed positions
    if run.is_in_last_segment:
        return _in_last_segment(control, schedule, history)
    is_little = before - now < run.segment.least_relative_decrease * before and not run.unknowns.has_positions
    control = replace(control, idle=control.idle + 1 if history.gain < schedule.significant_gain or is_little else 0)
    last_search = max((sweep for sweep, _ in schedule.position_search_radii_px), default=0)
    is_searching = run.unknowns.has_positions and run.sweep < last_search
    is_idle = control.idle > (schedule.patience if now > schedule.noise_misfit else 0)
    if not is_idle or control.sweeps < schedule.sweeps_per_step or is_searching:
        return control, Action.GO_ON
    if history.gain < -schedule.significant_gain and run.start != "flat":
        return Control(len(schedule.segments) - 1, damping=schedule.damping_factor), Action.BEST_AGAIN
    return Control(control.segment + 1, damping=control.damping), Action.NEXT_SEGMENT


def _in_last_segment(control: Control, schedule: Schedule, history: History) -> tuple[Control, Action]:
    has_gained = history.best_sweep == len(history.misfits) - 1 and history.gain > schedule.equivalent_gain
    is_worse = history.gain < -schedule.equivalent_gain
    damping = schedule.damping_factor if is_worse else schedule.damping_recovery
    control = replace(control, idle=0 if has_gained else control.idle + 1, damping=min(1.0, damping * control.damping))
    if control.idle > schedule.idle_sweeps:
        return control, Action.STOP
    return control, Action.DAMP if is_worse else Action.GO_ON


def result(run: Run) -> Refined:
    """The best estimate so far; where neither probe nor positions are refined, combined with the low frequencies of the
    last sweep."""
    history, best = run.history, run.history.best
    refined = Refined(
        best.object,
        best.probe,
        best.positions,
        best.intensities,
        initial=run.initial,
        last=history.last,
        held_out=history.best_values,
        best_sweep=history.best_sweep,
        misfits=history.misfits,
        subsets=run.subsets,
        unknowns=run.unknowns,
        likelihood=run.likelihood,
        start=run.start,
    )
    if run.unknowns.has_free_gauge:  # objects before and after may differ by a shift and a phase ramp
        return refined

    def misfits_of(obj: Tensor) -> Tensor:
        estimate = replace(run.state.mean, object=obj)
        return held_out_misfits(run.region, estimate, run.unknowns, run.likelihood)

    light = torch.stack(run.illuminations).sum(0)
    equivalent = run.schedule.equivalent_gain
    combined = combine_with_initial(run.initial, history, light, misfits_of=misfits_of, equivalent_gain=equivalent)
    if combined is None:
        return refined
    return replace(refined, object=combined[0], held_out=combined[1], is_combined=True)
