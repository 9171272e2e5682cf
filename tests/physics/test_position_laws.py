"""Laws of the search for positions, with every propagator."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import PROPAGATORS, few, gaussian, law, random_real, random_wave, seeds

from ptycho_torch.forward import Exposure, Forward
from ptycho_torch.physics.positions import affine_fit, affine_moves, best_offset, position_step
from ptycho_torch.physics.propagation import Propagator

every = pytest.mark.parametrize("propagator", PROPAGATORS.values(), ids=PROPAGATORS.keys())


def a_probe(n: int) -> torch.Tensor:
    """Two asymmetric modes, dark at the rim."""
    first, second = gaussian(n, 3.0, y=0.5), gaussian(n, 2.5, x=-0.7)
    line = torch.arange(n, dtype=torch.float64) - n // 2
    return 40 * torch.stack([first * torch.exp(0.1j * line[:, None] ** 2), 0.5 * line * second])


@every
@few
@given(st.sampled_from([17, 18]), seeds)
def test_the_true_positions_stay(propagator: Propagator, n: int, seed: int) -> None:
    obj, positions = random_wave(30, 32, seed=seed), 11 + 9 * random_real(4, 2, seed=seed)
    at = Exposure.of(a_probe(n), positions)
    forward, valid = Forward(propagator), random_real(n, n, seed=seed) > 0.1
    amplitude, patches = forward.counts(obj, at).sqrt(), forward.patches(obj, at)
    steps = position_step(at.probe, patches, amplitude, valid, propagator=propagator)
    assert float(steps.abs().max()) < 1e-9
    spoiled = torch.where(valid, amplitude, 0 * amplitude)
    blind = position_step(at.probe, patches, spoiled, valid, propagator=propagator)
    assert torch.allclose(blind, steps, atol=1e-9)


@every
@few
@given(st.sampled_from([17, 18]), st.floats(-1, 1), st.floats(-1, 1), seeds)
def test_a_step_leads_to_a_position_nearby(propagator: Propagator, n: int, dy: float, dx: float, seed: int) -> None:
    obj, positions = random_wave(30, 32, seed=seed), torch.full((2, 2), 14.0, dtype=torch.float64)
    move = 1e-3 * torch.tensor([[dy, dx], [dx, -dy]], dtype=torch.float64)
    forward, valid = Forward(propagator), torch.ones(n, n, dtype=torch.bool)
    amplitude = forward.counts(obj, Exposure.of(a_probe(n), positions + move)).sqrt()
    at = Exposure.of(a_probe(n), positions)
    steps = position_step(at.probe, forward.patches(obj, at), amplitude, valid, propagator=propagator)
    assert torch.allclose(steps, move, atol=3e-5)


@every
@few
@given(st.sampled_from([17, 18]), st.integers(-1, 1), st.integers(-1, 1), seeds)
def test_the_best_offset_is_the_one_that_was_taken(propagator: Propagator, n: int, dy: int, dx: int, seed: int) -> None:
    obj, probe = random_wave(40, 42, seed=seed), a_probe(n)[None]
    corners, offset = torch.tensor([[4, 5], [8, 11]]), torch.tensor([3 * dy, 3 * dx])
    amplitude = Forward(propagator).counts(obj, Exposure(probe, corners + offset)).sqrt()
    valid = torch.ones(n, n, dtype=torch.bool)
    found = best_offset(obj, probe, corners, amplitude, valid, radius=3, propagator=propagator)
    assert torch.equal(found, offset.expand(2, 2))
    assert torch.equal(best_offset(obj, probe, corners, amplitude, valid, radius=0, propagator=propagator), 0 * found)


@law
@given(seeds)
def test_an_affine_map_is_found_exactly_and_scatter_is_smoothed(seed: int) -> None:
    start = 100 * random_real(9, 2, seed=seed)
    matrix, shift = random_real(2, 2, seed=seed + 1) - 0.5, 10 * random_real(2, seed=seed + 2)
    moved = start @ matrix + shift
    centre, found, there = affine_fit(start, moved)
    assert torch.allclose(centre, start.mean(0)) and torch.allclose(found, matrix)
    assert torch.allclose(there - centre @ found, shift) and torch.allclose(affine_moves(start, moved), moved)
    scattered = moved + random_real(9, 2, seed=seed + 3)
    fitted = affine_moves(start, scattered)
    assert torch.allclose(affine_moves(start, fitted), fitted)  # a projection
    left = scattered - fitted  # orthogonal to every affine map
    assert torch.allclose(left.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(start.mT @ left, torch.zeros(2, 2, dtype=torch.float64), atol=1e-7)


def test_an_affine_fit_does_not_depend_on_what_memory_held_before() -> None:
    rng = torch.Generator().manual_seed(0)
    start = 30 * torch.rand(19, 2, dtype=torch.float64, generator=rng)
    moved = start + torch.randn(19, 2, dtype=torch.float64, generator=rng)
    found = set()
    for left in range(200):
        values = [torch.randint(0, 2**31 - 1, (3,), dtype=torch.int32, generator=rng) for _ in range(left % 7)]
        zeros = [torch.zeros(3, dtype=torch.int32) for _ in range(left % 5)]
        del values, zeros
        found.add(affine_moves(start, moved).numpy().tobytes())
    assert len(found) == 1
