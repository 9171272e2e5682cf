"""What is free, and the values of it."""

from __future__ import annotations

import pytest
import torch
from refinement_cases import flat, region_of
from scans import dense_scan

from ptycho_torch.physics.probe import shift_probe
from ptycho_torch.refinement import Unknowns
from ptycho_torch.refinement.state import State, copied


@pytest.mark.parametrize(
    ("unknowns", "gauge"),
    [
        (Unknowns(), False),
        (Unknowns(intensities="free"), False),
        (Unknowns(probe=True), True),
        (Unknowns(positions="free"), True),
        (Unknowns(positions="affine"), True),
    ],
)
def test_a_free_probe_or_free_positions_leave_a_gauge(unknowns: Unknowns, gauge: bool) -> None:
    assert unknowns.has_free_gauge == gauge
    assert unknowns.has_positions == (unknowns.positions != "none")


def test_a_state_begins_at_rest_and_never_changes_its_region() -> None:
    region = region_of(dense_scan())
    obj = flat(region)
    state = State.initial(region, obj)
    assert not any(v.any() for v in (state.object_velocity, state.probe_velocity, state.position_velocity))
    kept = copied(state)
    for value in (state.object, state.probe, state.positions, state.intensities):
        value.mul_(2)
    assert torch.equal(obj, flat(region)) and torch.equal(kept.positions, region.positions)
    assert (kept.intensities == 1).all() and torch.equal(2 * region.probe, state.probe)


@pytest.mark.parametrize("unknowns", [Unknowns(), Unknowns(probe=True, intensities="free")])
def test_each_pattern_sees_the_probe_at_its_place_and_with_its_intensity(unknowns: Unknowns) -> None:
    region = region_of(dense_scan())
    state = State.initial(region, flat(region))
    batch = next(iter(region.batches()))
    state.intensities[batch.index] = torch.linspace(0.5, 2, len(batch.index))
    seen = state.exposure(batch, unknowns)
    factors = state.intensities[batch.index].sqrt()[:, None, None, None] if unknowns.has_intensities else 1.0
    assert torch.equal(seen.corners, batch.corners)
    assert torch.allclose(seen.probe, factors * batch.probe, atol=1e-4 * float(batch.probe.abs().max()))
    state.positions[batch.index] += torch.tensor([2.25, -1.0])
    after = state.exposure(batch, unknowns)
    if unknowns.has_free_gauge:
        assert after.fraction is not None and not torch.equal(after.corners, batch.corners)
        assert torch.allclose(after.probe, factors * shift_probe(region.probe, after.fraction), atol=1e-6)
    else:
        assert torch.equal(after.corners, batch.corners) and torch.equal(after.probe, batch.probe)


def test_what_is_done_to_an_object_is_done_to_its_velocity_and_its_mean() -> None:
    region = region_of(dense_scan())
    state = State.initial(region, flat(region)).with_objects(lambda obj: obj + 1)
    assert torch.equal(state.object, flat(region) + 1) and torch.equal(state.mean_object, flat(region) + 1)
    assert (state.object_velocity == 1).all()
    rest = state.at_rest()
    assert not rest.object_velocity.any() and torch.equal(rest.object, state.object)
