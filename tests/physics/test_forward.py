"""Laws of the forward model, with every propagator."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from physics_cases import PROPAGATORS, few, random_real, random_wave, seeds

from ptycho_torch.forward import Exposure, Forward
from ptycho_torch.physics.propagation import FAR_FIELD, Propagator

every = pytest.mark.parametrize("propagator", PROPAGATORS.values(), ids=PROPAGATORS.keys())
sides = st.sampled_from([7, 8])


def some_positions(count: int, n: int, *, seed: int) -> torch.Tensor:
    """Sub-pixel positions whose windows of n pixels lie inside 20 × 24."""
    room = torch.tensor([20 - n - 1, 24 - n - 1])
    return n // 2 + 0.5 + room * random_real(count, 2, seed=seed)


@every
@few
@given(sides, seeds)
def test_waves_are_linear_in_the_object_and_in_the_probe(propagator: Propagator, n: int, seed: int) -> None:
    forward, objects, probes = Forward(propagator), random_wave(2, 20, 24, seed=seed), random_wave(2, 3, n, n, seed=7)
    positions = some_positions(4, n, seed=seed)
    first, second = (Exposure.of(probe, positions) for probe in probes)
    sums = forward.waves(objects[0] + 2j * objects[1], first)
    assert torch.allclose(sums, forward.waves(objects[0], first) + 2j * forward.waves(objects[1], first))
    both = forward.waves(objects[0], Exposure.of(probes[0] - 3j * probes[1], positions))
    assert torch.allclose(both, forward.waves(objects[0], first) - 3j * forward.waves(objects[0], second))


@every
@few
@given(sides, seeds)
def test_counts_are_the_photons_behind_the_object_and_modes_add(propagator: Propagator, n: int, seed: int) -> None:
    forward, obj, probe = Forward(propagator), random_wave(20, 24, seed=seed), random_wave(3, n, n, seed=seed + 1)
    at = Exposure.of(probe, some_positions(4, n, seed=seed))
    counts = forward.counts(obj, at)
    behind = (forward.patches(obj, at)[:, None] * at.probe).abs().square().sum((1, 2, 3))
    assert counts.shape == (4, n, n) and torch.allclose(counts.sum((-2, -1)), behind)
    assert torch.allclose(forward.counts_behind(forward.patches(obj, at), at.probe), counts)
    alone = [forward.counts(obj, Exposure(at.probe[:, m : m + 1], at.corners)) for m in range(3)]
    assert torch.allclose(torch.stack(alone).sum(0), counts)
    assert torch.allclose(forward.counts((2 - 1j) * obj, at), 5 * counts)


@every
@few
@given(sides, seeds)
def test_intensities_multiply_the_counts_of_their_patterns(propagator: Propagator, n: int, seed: int) -> None:
    forward, obj, probe = Forward(propagator), random_wave(20, 24, seed=seed), random_wave(2, n, n, seed=seed + 1)
    positions, factors = some_positions(4, n, seed=seed), 0.2 + random_real(4, seed=seed + 2)
    counts = forward.counts(obj, Exposure.of(probe, positions))
    brighter = forward.counts(obj, Exposure.of(probe, positions, intensities=factors))
    assert torch.allclose(brighter, factors[:, None, None] * counts)


@every
@few
@given(sides, seeds)
def test_whole_positions_cut_the_object(propagator: Propagator, n: int, seed: int) -> None:
    obj, probe = random_wave(20, 24, seed=seed), random_wave(2, n, n, seed=seed + 1)
    positions = some_positions(3, n, seed=seed).floor()
    at = Exposure.of(probe, positions)
    assert torch.equal(at.corners + n // 2, positions.long())
    for wave, (y, x) in zip(Forward(propagator).waves(obj, at), at.corners.tolist(), strict=True):
        assert torch.allclose(wave, propagator.forward(obj[y : y + n, x : x + n] * probe))


@every
@few
@given(st.sampled_from([13, 14]), st.floats(-0.5, 0.49), st.floats(-0.5, 0.49))
def test_the_fraction_of_a_position_moves_the_probe(propagator: Propagator, n: int, dy: float, dx: float) -> None:
    k = torch.arange(n, dtype=torch.float64) - n // 2

    def blob(y: float, x: float) -> torch.Tensor:
        y_part, x_part = torch.exp(-((k - y) ** 2) / 4 + 0.4j * (k - y)), torch.exp(-((k - x) ** 2) / 5)
        return (y_part[:, None] * x_part[None, :])[None]

    obj = random_wave(20, 24, seed=2)
    at = Exposure.of(blob(0, 0), torch.tensor([[9 + dy, 11 + dx]], dtype=torch.float64))
    window = obj[9 - n // 2 : 9 - n // 2 + n, 11 - n // 2 : 11 - n // 2 + n]
    assert at.fraction is not None and at.fraction[0].tolist() == pytest.approx([dy, dx])
    expected = propagator.forward(window * blob(dy, dx))
    assert torch.allclose(Forward(propagator).waves(obj, at)[0], expected, atol=2e-3)


@every
def test_an_empty_beam_is_an_object_of_one(propagator: Propagator) -> None:
    forward, probe = Forward(propagator), random_wave(2, 9, 9, seed=4)
    at = Exposure.of(probe, torch.tensor([[6.0, 7.0]], dtype=torch.float64))
    counts = forward.counts(torch.ones(20, 24, dtype=torch.complex128), at)
    assert torch.allclose(forward.empty_beam(probe), counts[0])
    assert torch.allclose(forward.empty_beam(3j * probe), 9 * counts[0])
    assert Forward() == Forward(FAR_FIELD)
