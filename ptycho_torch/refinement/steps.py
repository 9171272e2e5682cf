"""The update of each unknown, as a function of the state; the schedule decides when it is called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ptycho_torch.data.canvas import Canvas
from ptycho_torch.data.region import Batch, Region
from ptycho_torch.physics.object_step import damped_illumination, momentum_step, object_step
from ptycho_torch.physics.patches import extract, place_whole
from ptycho_torch.physics.phase_gradient import slow_phase
from ptycho_torch.physics.positions import affine_moves, best_offset
from ptycho_torch.physics.preconditioner import Acceleration
from ptycho_torch.physics.probe import illumination, orthogonal_modes, probe_power, probe_radius
from ptycho_torch.physics.regularisers import Regulariser
from ptycho_torch.physics.warp import affine_field, smooth_field, warp
from ptycho_torch.refinement.schedule import Schedule
from ptycho_torch.refinement.state import State, Unknowns


def move_object(
    state: State,
    canvas: Canvas,
    *,
    acceleration: Acceleration | None,
    step: float,
    momentum: float,
    damping: float = 1.0,
    regulariser: Regulariser | None = None,
    updates: int = 1,
) -> State:
    """The `object_step` for a canvas of patterns: their likelihood gradient Σ conj(P) χ over their illumination Σ |P|².

    A regulariser's proximal step follows, with the step size over the `updates` of a sweep.
    """
    obj, velocity, _ = object_step(
        state.object,
        state.object_velocity,
        canvas.summed / damped_illumination(canvas.weight),
        acceleration=acceleration,
        step=step,
        momentum=momentum,
        damping=damping,
    )
    if regulariser is not None:
        obj = regulariser.proximal(obj, step / updates)
    return replace(state, object=obj, object_velocity=velocity)


def move_probe(state: State, gradient: Tensor, object_power: Tensor, *, step: float, momentum: float) -> State:
    """The update of the probe, with the roles of object and probe exchanged: gradient `[mode, N, N]`, object_power Σ_j
    |O_j|² `[N, N]`.

    Source: ePIE, rPIE (Maiden et al. 2009, 2017).
    """
    direction = gradient / damped_illumination(object_power)
    probe, velocity = momentum_step(state.probe, state.probe_velocity, direction, step=step, momentum=momentum)
    return replace(state, probe=probe, probe_velocity=velocity)


def move_positions(state: State, region: Region, batch: Batch, step: Tensor, schedule: Schedule) -> None:
    """v ← clamp(μ v + δ), r ← r + v for the positions of a batch, in place; steps δ `[b, 2]` as `position_step`'s."""
    velocity = schedule.position_momentum * state.position_velocity[batch.index] + step.double()
    largest = schedule.largest_move_px
    state.position_velocity[batch.index] = velocity.clamp(-largest, largest)
    moved = state.positions[batch.index] + state.position_velocity[batch.index]
    state.positions[batch.index] = on_the_canvas(moved, region)


def move_intensities(state: State, batch: Batch, predicted: Tensor, schedule: Schedule) -> None:
    """Half a step, in logarithms, to Σ n / Σ I of each pattern of a batch, in place; predicted photons Σ I `[b]`."""
    counted, largest = (batch.amplitude.square() * batch.valid).sum((-2, -1)), schedule.largest_intensity_change
    state.intensities[batch.index] *= (counted / predicted).clamp(1 / largest, largest).sqrt()


def as_drift(state: State, frames: np.ndarray, *, degree: int) -> State:
    """The logarithms of the intensities replaced by the nearest polynomial of the frames' numbers `[n]`.

    A beam that drifts changes slowly, and what each pattern could say alone is noise where light is scarce.
    """
    times = torch.as_tensor(frames / max(frames.max(), 1), dtype=torch.float64, device=state.intensities.device)
    powers = times[:, None] ** torch.arange(degree + 1, device=times.device)
    smooth = powers @ (torch.linalg.pinv(powers) @ state.intensities.double().log())
    return replace(state, intensities=smooth.exp().to(state.intensities))


def normalise_intensities(state: State) -> State:
    """Intensities normalised to a mean of one; the object is multiplied by the square root of the factor."""
    mean = state.intensities.mean()
    factor = mean.sqrt()
    return replace(
        state,
        intensities=state.intensities / mean,
        object=state.object * factor,
        mean_object=state.mean_object * factor,
    )


def normalise_probe(state: State, power: Tensor) -> State:
    """The probe normalised to this power, the object divided by the factor; modes orthogonal, strongest first."""
    factor = (power / probe_power(state.probe)).sqrt()
    state = state.with_objects(lambda obj: obj / factor)
    turn = factor * orthogonal_modes(state.probe)
    probe, velocity, mean = (
        torch.einsum("mk,kyx->myx", turn, each) for each in (state.probe, state.probe_velocity, state.mean_probe)
    )
    return replace(state, probe=probe, probe_velocity=velocity, mean_probe=mean)


def add_slow_phase(state: State, sums: Tensor, seen: Tensor) -> State:
    """The object times exp(iφ), φ the `slow_phase` from the shifts of the patterns `seen` `[k]`, with
    `shift_sums` `sums` `[k, 17]`. Only for propagators that shift patterns with phase ramps (far field)."""
    shape = (state.object.shape[0], state.object.shape[1])
    phase = slow_phase(sums, state.positions[seen], state.probe, shape)
    factor = torch.polar(torch.ones_like(phase), phase)
    return state.with_objects(lambda obj: obj * factor)


def search_positions(
    state: State, region: Region, unknowns: Unknowns, *, radius: int, confirmed: tuple[float, float] | None = None
) -> None:
    """Each position moves, in place, to the best of nine offsets of 0 or ±radius px; momenta are reset.

    With `confirmed`, the search uses the `confirmed_object` for these fractions.
    """
    obj = state.object if confirmed is None else confirmed_object(state, region, unknowns, confirmed)
    for batch in region.batches():
        seen = state.exposure(batch, unknowns)
        offset = best_offset(
            obj,
            seen.probe,
            seen.corners,
            batch.amplitude,
            batch.valid,
            radius=radius,
            propagator=region.forward.propagator,
        )
        state.positions[batch.index] = on_the_canvas(state.positions[batch.index] + offset, region)
    state.position_velocity.zero_()


def confirmed_object(state: State, region: Region, unknowns: Unknowns, fractions: tuple[float, float]) -> Tensor:
    """The object where several patterns illuminate it, its mean elsewhere: complex64 `[H, W]`.

    At the edge of the scan, the object of a single pattern adapts to a wrong position and would confirm it. `fractions`
    of the largest illumination: zero weight, and full weight.
    """

    def illuminated(batch: Batch) -> Tensor:
        seen = state.exposure(batch, unknowns)
        return place_whole(illumination(seen.probe).expand(len(seen.corners), -1, -1), seen.corners, region.shape)

    light = region.total(illuminated)
    dim, bright = fractions
    weight = ((light / light.max() - dim) / (bright - dim)).clamp(0, 1)
    mean = (weight * state.object).sum() / weight.sum()
    return torch.lerp(mean.expand_as(state.object), state.object, weight.to(state.object.dtype))


def fit_affine_positions(state: State, region: Region) -> State:
    """The positions of the affine map of the region's positions that is nearest to the present ones."""
    return replace(state, positions=on_the_canvas(affine_moves(region.positions, state.positions), region))


def over_relax_positions(state: State, before: Tensor, region: Region, unknowns: Unknowns, schedule: Schedule) -> State:
    """Over-relaxation of the common part of the moves since `before` `[n, 2]`: r ← r + u(r), O(r) ← O(r − u(r)).

    u is `over_relaxation` times the mean field of the moves within a probe's radius, or `affine_over_relaxation` times
    their affine field. The object adapts to the positions, so without it a distortion that both share takes many sweeps
    to correct.
    """
    moves, shape = state.positions - before, region.shape
    if unknowns.positions == "affine":
        field = schedule.affine_over_relaxation * affine_field(before, moves, shape)
    else:
        field = schedule.over_relaxation * smooth_field(before, moves, shape, sigma=probe_radius(state.probe))
    largest = schedule.largest_over_relaxation_px
    field = field.clamp(-largest, largest)
    moves = torch.stack([extract(each, before, 1)[:, 0, 0] for each in field], -1)
    state = replace(state, positions=on_the_canvas(state.positions + moves, region))
    return state.with_objects(lambda obj: warp(obj, field))


def on_the_canvas(positions: Tensor, region: Region) -> Tensor:
    """Positions `[n, 2]` limited to those whose windows lie on the canvas."""
    half = region.n // 2
    limits = torch.tensor(region.shape, device=positions.device) - region.n + half - 1
    return torch.minimum(positions.clamp_min(half), limits.to(positions.dtype))
