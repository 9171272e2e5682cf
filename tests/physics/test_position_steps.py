"""Position steps and searches: they point to where the patterns were taken."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_torch.forward import Exposure
from ptycho_torch.physics.patches import extract_whole
from ptycho_torch.physics.positions import affine_moves, best_offset, position_step
from ptycho_torch.physics.propagation import FAR_FIELD, NearField, Propagator
from ptycho_torch.simulation.truth import as_region
from ptycho_torch.simulation.unseen import simulated

PROPAGATORS = pytest.mark.parametrize("propagator", [FAR_FIELD, NearField(0.3)], ids=["far", "near"])


def exact(propagator: Propagator) -> tuple[Exposure, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Some patterns of a textured object without noise: exposure, object, √counts, valid, positions."""
    region, truth = as_region(simulated(photons=1e9, n=32, positions=49))
    batch = next(iter(region.batches()))
    patches = extract_whole(truth, batch.corners, 32)
    amplitude = propagator.forward(batch.probe * patches[:, None]).abs().square().sum(1).sqrt()
    return Exposure(batch.probe, batch.corners), truth, amplitude, region.valid, batch.positions


@PROPAGATORS
@settings(deadline=None, max_examples=20)
@given(error=st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)))
def test_a_position_step_points_to_where_the_pattern_was_taken(
    propagator: Propagator, error: tuple[float, float]
) -> None:
    _, truth, amplitude, valid, positions = exact(propagator)
    region, _ = as_region(simulated(photons=1e9, n=32, positions=49))
    wrong = Exposure.of(region.probe, positions + torch.tensor(error))
    patches = extract_whole(truth, wrong.corners, 32)
    steps = position_step(wrong.probe, patches, amplitude, valid, propagator=propagator)
    assert torch.allclose(steps.median(0).values, -torch.tensor(error), atol=0.02)


@PROPAGATORS
def test_the_best_offset_undoes_a_whole_pixel_error(propagator: Propagator) -> None:
    at, obj, amplitude, valid, _ = exact(propagator)
    limits = torch.tensor(obj.shape) - 34
    inner = ((at.corners > 2) & (at.corners < limits)).all(1)
    probe, corners, amplitude = at.probe[inner], at.corners[inner], amplitude[inner]
    assert inner.any()
    assert not best_offset(obj, probe, corners, amplitude, valid, radius=2, propagator=propagator).any()
    wrong = corners + torch.tensor([2, -2])
    moved = best_offset(obj, probe, wrong, amplitude, valid, radius=2, propagator=propagator)
    assert (moved == torch.tensor([-2, 2])).all()


def test_photon_noise_moves_no_pattern_from_its_right_place() -> None:
    """Mean step over noises at the truth, in standard errors; √n − √I in the step would give 15 and more."""
    region, truth = as_region(simulated(photons=300, n=32, positions=49))
    batch = next(iter(region.batches()))
    patches = extract_whole(truth, batch.corners, 32)
    expected = region.forward.counts(truth, batch)
    generator = torch.Generator().manual_seed(0)
    steps = torch.stack(
        [
            position_step(batch.probe, patches, torch.poisson(expected, generator=generator).sqrt(), region.valid)
            for _ in range(200)
        ]
    )
    bias = steps.mean(0) / steps.std(0) * math.sqrt(len(steps))
    assert bias.square().mean().sqrt() < 1.3 and bias.abs().max() < 4


def test_an_affine_model_takes_only_an_affine_move() -> None:
    rng = np.random.default_rng(0)
    start = torch.as_tensor(rng.uniform(0, 100, size=(50, 2)))
    matrix, shift = torch.tensor([[1.02, 0.01], [-0.03, 0.98]], dtype=torch.float64), torch.tensor([1.0, -2.0])
    moved = start @ matrix + shift
    wild = moved + torch.randn(moved.shape, dtype=moved.dtype, generator=torch.Generator().manual_seed(0))
    design = torch.cat([start, torch.ones_like(start[:, :1])], 1)
    left = affine_moves(start, wild) - wild  # least squares: nothing is left along any column
    assert (design.mT @ left).abs().max() < 1e-8 * wild.abs().max() * len(wild)
    assert torch.allclose(affine_moves(start, moved), moved)
