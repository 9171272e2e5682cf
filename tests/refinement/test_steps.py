"""How unknowns move, each on its own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refinement_cases import flat, refined, region_of, truth_of
from scans import dense_scan

from ptycho_torch.data.canvas import Canvas
from ptycho_torch.physics.low_pass import low_pass
from ptycho_torch.physics.object_step import damped_illumination
from ptycho_torch.physics.phase_gradient import shift_sums
from ptycho_torch.physics.probe import illumination, probe_power
from ptycho_torch.physics.warp import smooth_field, warp
from ptycho_torch.refinement import SCHEDULE, Unknowns, steps
from ptycho_torch.refinement.solver import init, step
from ptycho_torch.refinement.state import State

SCAN = dense_scan()
REGION = region_of(SCAN)
FREE = Unknowns(positions="free")


def a_state(seed: int = 0) -> State:
    state = State.initial(REGION, truth_of(SCAN, REGION))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(REGION.shape, dtype=torch.complex64, generator=generator)
    return replace(state, object_velocity=noise, mean_object=state.object + noise)


def counts_of(state: State, unknowns: Unknowns) -> torch.Tensor:
    batch = next(iter(REGION.batches()))
    return REGION.forward.counts(state.object, state.exposure(batch, unknowns))


class Halving:
    """A regulariser that remembers its steps."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def proximal(self, obj: torch.Tensor, step: float) -> torch.Tensor:
        self.steps.append(step)
        return obj / 2


def test_the_object_moves_by_its_gradient_over_the_illumination_and_is_regularised_then() -> None:
    state, light, regulariser = a_state(), REGION.illumination(), Halving()
    gradient = light * torch.randn(REGION.shape, dtype=torch.complex64)
    moved = steps.move_object(state, Canvas(gradient, light, (0, 0)), acceleration=None, step=0.5, momentum=0.25)
    velocity = 0.25 * state.object_velocity + 0.5 * gradient / damped_illumination(light)
    assert torch.allclose(moved.object_velocity, velocity) and torch.allclose(moved.object, state.object + velocity)
    options = {"acceleration": None, "step": 0.5, "momentum": 0.25, "regulariser": regulariser, "updates": 4}
    halved = steps.move_object(state, Canvas(gradient, light, (0, 0)), **options)  # type: ignore[arg-type]
    assert torch.equal(halved.object, moved.object / 2) and regulariser.steps == [0.125]
    slow = steps.move_object(
        state, Canvas(gradient, light, (0, 0)), acceleration=None, step=0.5, momentum=0.0, damping=0.0
    )
    assert torch.allclose(slow.object_velocity, low_pass(slow.object_velocity), atol=0.3) and slow.object is not None


def test_damping_holds_back_details_and_lets_low_frequencies_go_on() -> None:
    state = State.initial(REGION, flat(REGION))
    gradient, light = torch.randn(REGION.shape, dtype=torch.complex64), torch.ones(REGION.shape)

    def moved(damping: float) -> torch.Tensor:
        return steps.move_object(
            state, Canvas(gradient, light, (0, 0)), acceleration=None, step=1.0, momentum=0.0, damping=damping
        ).object_velocity

    assert torch.allclose(moved(0.0), low_pass(moved(1.0)), atol=1e-6)
    assert torch.allclose(moved(0.25), torch.lerp(moved(0.0), moved(1.0), 0.25), atol=1e-6)


def test_the_probe_moves_as_the_object_does() -> None:
    state, power = a_state(), torch.rand(32, 32) + 0.1
    gradient = power * torch.randn(1, 32, 32, dtype=torch.complex64)
    once = steps.move_probe(state, gradient, power, step=0.5, momentum=0.5)
    direction = gradient / (power + 0.1 * power.max())
    assert torch.allclose(once.probe, state.probe + 0.5 * direction)
    twice = steps.move_probe(once, gradient, power, step=0.5, momentum=0.5)
    assert torch.allclose(twice.probe, state.probe + 1.25 * direction, atol=1e-4)


def test_positions_move_with_momentum_no_farther_than_allowed_and_stay_on_the_canvas() -> None:
    region = region_of(SCAN, margin=6)
    state, batch = State.initial(region, flat(region)), next(iter(region.batches()))
    small = torch.full((len(batch.index), 2), 0.1)
    for _ in range(2):
        steps.move_positions(state, region, batch, small, SCHEDULE)
    assert torch.allclose(state.positions[batch.index], region.positions[batch.index] + 0.25)
    untouched = torch.ones(len(region), dtype=torch.bool)
    untouched[batch.index] = False
    assert torch.equal(state.positions[untouched], region.positions[untouched])
    before = state.positions.clone()
    steps.move_positions(state, region, batch, 50 * small, SCHEDULE)
    assert float((state.positions - before).abs().max()) == pytest.approx(SCHEDULE.largest_move_px)
    for _ in range(200):
        steps.move_positions(state, region, batch, -50 * small, SCHEDULE)
    assert (state.positions[batch.index] == region.n // 2).all()


@settings(deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_windows_of_positions_on_the_canvas_lie_on_it(y: float, x: float) -> None:
    position = steps.on_the_canvas(torch.tensor([[y, x]], dtype=torch.float64), REGION)
    corner = position + 0.5 - REGION.n // 2
    assert (corner >= 0).all() and (corner + REGION.n <= torch.tensor(REGION.shape) + 0.5).all()
    inside = REGION.positions
    assert torch.equal(steps.on_the_canvas(inside, region=region_of(SCAN, margin=1)), inside)


def test_intensities_go_half_the_way_in_logarithms_and_their_mean_is_one() -> None:
    state, batch = a_state(), next(iter(REGION.batches()))
    counted = (batch.amplitude.square() * batch.valid).sum((-2, -1))
    factors = torch.linspace(0.6, 1.7, len(counted))
    steps.move_intensities(state, batch, counted / factors, SCHEDULE)
    assert torch.allclose(state.intensities[batch.index], factors.sqrt())
    steps.move_intensities(state, batch, counted / 100, SCHEDULE)
    assert torch.allclose(state.intensities[batch.index], (2 * factors).sqrt())
    normal = steps.normalise_intensities(state)
    assert float(normal.intensities.mean()) == pytest.approx(1, rel=1e-5)
    free = Unknowns(intensities="free")
    assert torch.allclose(counts_of(normal, free), counts_of(state, free), rtol=1e-3, atol=1e-2)


def test_intensities_of_a_drift_keep_a_slow_change_in_time_and_lose_the_rest() -> None:
    rng, frames = np.random.default_rng(0), np.random.default_rng(1).permutation(400)
    slow = np.exp(-0.9 * frames / 400 + 0.3 * (frames / 400) ** 3)
    noisy = torch.as_tensor(slow * rng.lognormal(0, 0.05, 400), dtype=torch.float32)
    smooth = steps.as_drift(replace(a_state(), intensities=noisy), frames, degree=3).intensities
    assert np.abs(smooth.numpy() / slow - 1).max() < 0.02
    one = steps.as_drift(replace(a_state(), intensities=noisy[:1]), frames[:1], degree=3).intensities
    assert torch.allclose(one, noisy[:1])


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_a_normalised_probe_explains_the_same_counts(factor: float) -> None:
    state, unknowns = a_state(), Unknowns(probe=True)
    wild = replace(state, probe=factor * state.probe)
    normal = steps.normalise_probe(wild, probe_power(REGION.probe))
    assert float(probe_power(normal.probe)) == pytest.approx(float(probe_power(REGION.probe)), rel=1e-4)
    assert torch.allclose(illumination(normal.probe), illumination(state.probe), rtol=1e-3, atol=1e-2)
    assert torch.allclose(counts_of(normal, unknowns), counts_of(wild, unknowns), rtol=1e-3, atol=1e-2)


def test_the_slow_phase_that_the_shifts_tell_of_is_added() -> None:
    state, batches = a_state(), list(REGION.batches())
    wave = 0.4 * torch.cos(torch.arange(REGION.shape[1]) / 12).expand(REGION.shape)
    wrong = replace(state, object=state.object * torch.polar(torch.ones(REGION.shape), wave))
    sums, seen = [], torch.cat([batch.index for batch in batches])
    for batch in batches:
        predicted = REGION.forward.counts(wrong.object, batch).sqrt()
        sums.append(shift_sums(predicted, batch.amplitude, batch.valid.float()))
    right = steps.add_slow_phase(wrong, torch.cat(sums), seen)
    light = REGION.illumination()

    def left(each: State) -> float:
        turn = (light * each.object * state.object.conj()).sum()
        phase = (each.object * state.object.conj() * turn.conj()).angle()
        return float((light * phase.square()).sum() / light.sum())

    assert left(right) < 0.3 * left(wrong)
    assert torch.allclose((right.mean_object / wrong.mean_object).abs(), torch.ones(()), atol=1e-4)


def test_a_search_finds_whole_pixels_and_leaves_no_momentum() -> None:
    region = region_of(SCAN, margin=6)
    state = State.initial(region, truth_of(SCAN, region))
    lost = torch.randperm(len(region), generator=torch.Generator().manual_seed(0))[:40]
    state.positions[lost] += torch.tensor([3.0, -3.0])
    state.position_velocity.fill_(0.3)
    steps.search_positions(state, region, FREE, radius=3)
    assert torch.allclose(state.positions, region.positions) and not state.position_velocity.any()


def test_what_one_pattern_alone_says_of_the_object_is_not_confirmed() -> None:
    state, light = a_state(), REGION.illumination()
    seen = steps.confirmed_object(state, REGION, FREE, SCHEDULE.confirmed_illumination)
    dim, bright = light < 0.14 * light.max(), light > 0.46 * light.max()
    assert torch.equal(seen[bright], state.object[bright])
    assert float((seen[dim] - seen[dim].mean()).abs().max()) < 1e-3


def test_a_slow_distortion_of_object_and_positions_is_undone_together() -> None:
    """Where both are bent alike, patterns hardly see it; an object that is warped with its positions comes back."""
    scan = dense_scan(photons=1e6, positions=196)
    region = region_of(scan, margin=6, moving=True)
    true, truth = region.positions.clone(), refined(region, sweeps=15).object
    wave = 1.5 * torch.sin(2 * math.pi * true.flip(1) / 60)

    def left(over_relaxation: float) -> float:
        schedule = replace(SCHEDULE, over_relaxation=over_relaxation)
        bent = warp(truth, smooth_field(true, wave, region.shape, sigma=4.0))
        run = init(region, bent, unknowns=FREE, start="refined", schedule=schedule, over_relax=True)
        run.state = replace(run.state, positions=true + wave)
        with torch.inference_mode():
            for _ in range(15):
                step(run)
        error = run.state.positions - true
        return float((error - error.mean(0)).square().sum(1).mean().sqrt())

    assert left(SCHEDULE.over_relaxation) < 0.5 * left(0.0)


def test_an_affine_over_relaxation_goes_as_far_as_the_schedule_says() -> None:
    region = region_of(SCAN, margin=8)
    state, unknowns = State.initial(region, truth_of(SCAN, region)), Unknowns(positions="affine")
    before = state.positions.clone()
    moved = replace(state, positions=before + 0.05)
    after = steps.over_relax_positions(moved, before, region, unknowns, SCHEDULE)
    farther = 0.05 * (1 + SCHEDULE.affine_over_relaxation)
    assert torch.allclose(after.positions, before + farther, atol=1e-3)
    fitted = steps.fit_affine_positions(replace(after, positions=1.01 * region.positions + 0.3), region)
    assert torch.allclose(fitted.positions, 1.01 * region.positions + 0.3)
