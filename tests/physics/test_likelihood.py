"""Laws of what the counts say of a prediction."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from physics_cases import law, seeds

from ptycho_torch.physics import likelihood


@law
@given(seeds)
def test_the_likelihood_is_least_at_the_truth_and_deaf_to_masked_pixels(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    counts = 5 * torch.rand(3, 6, 6, dtype=torch.float64, generator=rng)
    counts[0, 0, 0] = 0
    valid = torch.ones(6, 6, dtype=torch.bool)
    valid[2, 4] = False
    assert float(likelihood.poisson_nll(counts, counts, valid)) == pytest.approx(0, abs=1e-6)
    for factor in (0.7, 0.99, 1.01, 1.5):
        assert likelihood.poisson_nll(factor * counts, counts, valid) > 1e-7
    spoiled = counts.clone()
    spoiled[:, 2, 4] = 1e6
    for loss in likelihood.LOSSES.values():
        assert torch.equal(
            loss(counts * 1.2, counts, valid), loss(counts * 1.2, torch.where(valid, counts, spoiled), valid)
        )
    assert torch.equal(likelihood.misfit(counts, spoiled, valid)[0], torch.zeros(3, dtype=torch.float64))


def test_misfit_and_likelihood_have_closed_forms() -> None:
    amplitude = 1 + torch.rand(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(8, 8, dtype=torch.bool)
    valid[2, 3] = False
    predicted = amplitude * torch.tensor([1.1, 0.8, 1.0], dtype=torch.float64)[:, None, None]
    predicted[:, 2, 3] = 1e6
    error, power = likelihood.misfit(predicted.square(), amplitude.square(), valid)
    assert torch.allclose((error / power).sqrt(), torch.tensor([0.1, 0.2, 0], dtype=torch.float64))
    three, two = torch.full((2, 8, 8), 3.0), torch.full((2, 8, 8), 2.0)
    assert float(likelihood.poisson_nll(two, three, valid)) == pytest.approx(3 * math.log(1.5) - 1)


def test_twice_the_likelihood_of_poisson_counts_is_one() -> None:
    rng = torch.Generator().manual_seed(0)
    mean = 50 + 450 * torch.rand(10, 32, 32, generator=rng)
    counts = torch.poisson(mean, generator=rng)
    valid = torch.ones(32, 32, dtype=torch.bool)
    assert 2 * float(likelihood.poisson_nll(mean, counts, valid)) == pytest.approx(1, abs=0.05)


def test_total_variation_of_a_step_is_its_height() -> None:
    flat = torch.ones(6, 9, dtype=torch.complex128)
    step = flat.clone()
    step[:, 5:] += 0.5
    assert float(likelihood.total_variation(flat)) == pytest.approx(0, abs=1e-5)
    assert float(likelihood.total_variation(step)) == pytest.approx(0.5 / 8, abs=1e-5)
