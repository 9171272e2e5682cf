"""What photon noise alone leaves: tables against sums over the Poisson distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from ptycho_torch.physics.photon_noise import noise_of


@pytest.mark.parametrize("mean", [3e-6, 2e-3, 0.07, 0.6, 1.7, 4.2, 33.0, 250.0, 900.0])
def test_photon_noise_is_the_expectation_over_poisson_counts(mean: float) -> None:
    counts = np.arange(int(mean + 20 * np.sqrt(mean) + 30))
    chance = poisson.pmf(counts, mean)
    squares = np.square(np.sqrt(counts) - np.sqrt(mean))
    deviance = 2 * (mean - counts + counts * np.log(np.maximum(counts, 1) / mean))
    expected = torch.tensor([mean])
    assert float(noise_of(expected)[0]) == pytest.approx((chance * squares).sum(), rel=2e-3)
    assert float(noise_of(expected)[1]) == pytest.approx((chance * deviance).sum(), rel=2e-3)


def test_photon_noise_has_the_limits_of_no_and_of_many_photons() -> None:
    ends = torch.tensor([0.0, 1e12])
    assert noise_of(ends)[0].tolist() == pytest.approx([0.0, 0.25], rel=1e-3)
    assert noise_of(ends)[1].tolist() == pytest.approx([0.0, 1.0], abs=1e-3)
