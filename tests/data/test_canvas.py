"""The step of a sweep is one sum: patterns in chunks, in any order, on many ranks."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.data.canvas import Canvas
from ptycho_torch.data.region import Batch, Region
from ptycho_torch.physics.object_step import damped_illumination
from ptycho_torch.physics.patches import extract
from ptycho_torch.physics.probe import illumination
from ptycho_torch.simulation.truth import as_region
from ptycho_torch.simulation.unseen import simulated

REGION, TRUTH = as_region(simulated(photons=1e4, n=32, positions=49), subsets=4, batch_size=5)


def laid(canvas: Canvas, region: Region, obj: torch.Tensor, batch: Batch) -> Canvas:
    """What one batch asks of the object."""
    patches = region.forward.patches(obj, batch)
    correction, _ = region.forward.correction(patches, batch.probe, batch.amplitude, batch.valid)
    return canvas.lay((batch.probe.conj() * correction).sum(1), batch.corners, illumination(batch.probe))


def step(canvas: Canvas) -> torch.Tensor:
    return canvas.summed / damped_illumination(canvas.weight)


@given(st.permutations(range(len(list(REGION.batches())))), st.integers(1, 4))
def test_the_step_of_a_sweep_does_not_depend_on_order_or_ranks(order: list[int], ranks: int) -> None:
    batches, obj = list(REGION.batches()), REGION.uniform_object()
    empty = Canvas.empty(REGION.origin, REGION.shape)
    whole = empty
    for batch in batches:
        whole = laid(whole, REGION, obj, batch)
    merged = empty
    for rank in range(ranks):
        part = empty
        for place in order[rank::ranks]:
            part = laid(part, REGION, obj, batches[place])
        merged = part.merge(merged)
    assert merged.origin == whole.origin
    assert torch.allclose(merged.weight, whole.weight, rtol=1e-4)
    assert torch.allclose(step(merged), step(whole), atol=1e-5 * float(step(whole).abs().max()))
    gradient = REGION.total(lambda batch: laid(empty, REGION, obj, batch).summed)
    assert torch.allclose(gradient, whole.summed, atol=1e-5 * float(whole.summed.abs().max()))


def test_a_known_weight_takes_the_place_of_one_that_is_laid() -> None:
    batch = next(iter(REGION.batches()))
    products = torch.ones(len(batch.corners), 32, 32, dtype=torch.complex64)
    canvas = Canvas.empty(REGION.origin, REGION.shape).lay(products, batch.corners)
    assert not canvas.weight.any()
    counted = Canvas.empty(REGION.origin, REGION.shape).lay(products, batch.corners, products.real)
    assert torch.equal(canvas.weighed(counted.weight).resolve(), counted.resolve())
    assert torch.equal(counted.resolve(), (counted.weight > 0).to(torch.complex64))


@given(st.integers(0, 2**32 - 1))
def test_patches_of_one_object_stay_as_they_are(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    obj = torch.randn(24, 28, dtype=torch.complex64, generator=rng)
    positions = torch.randint(3, 20, (9, 2), generator=rng).double()
    cut, weight = extract(obj, positions, 6), 0.1 + torch.rand(6, 6, generator=rng)
    merged = Canvas.around(positions, 6).add(cut, positions, weight)
    again = extract(merged.resolve(), positions - torch.tensor(merged.origin), 6)
    assert torch.allclose(again, cut, rtol=1e-5, atol=1e-6)
