"""The default schedule: what follows what, and that any other one can be asked for."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from refinement_cases import flat, refined, region_of
from scans import dense_scan

from ptycho_torch.refinement import SCHEDULE, Schedule, Segment, refine
from ptycho_torch.refinement.schedule import PROBE_SEARCH


def test_a_segment_takes_its_steps_in_turn_and_stays_with_the_last() -> None:
    segment = Segment("poisson", 0.0, 1, ((1.0, 0.5), (0.5, 0.8)), 0.0)
    taken = [segment.step(sweeps, sweeps_per_step=2) for sweeps in range(6)]
    assert taken == [(1.0, 0.5)] * 2 + [(0.5, 0.8)] * 4


def test_segments_go_from_small_subsets_to_all_patterns_and_end_with_the_exact_likelihood() -> None:
    together = [segment.subsets_per_update for segment in SCHEDULE.segments]
    assert together == [1, 1, 2, 0]
    last = SCHEDULE.segments[-1]
    assert last.likelihood == "poisson" and last.background_photons == last.least_relative_decrease == 0
    assert all(0 < size <= 1 and 0 <= momentum < 1 for each in SCHEDULE.segments for size, momentum in each.steps)


def test_all_positions_are_searched_within_the_margin() -> None:
    assert max(radius for _, radius in SCHEDULE.position_search_radii_px) < SCHEDULE.margin_px
    assert all(sweep < SCHEDULE.search_sweeps for sweep, _ in SCHEDULE.position_search_radii_px)


@pytest.mark.parametrize("numbers", [SCHEDULE, PROBE_SEARCH])
def test_a_schedule_is_a_value(numbers: object) -> None:
    assert numbers == type(numbers)() and hash(numbers) == hash(type(numbers)())
    assert all(getattr(numbers, field.name) is not None for field in fields(numbers))  # type: ignore[arg-type]


def test_every_segment_has_its_chance() -> None:
    subsets = refined(region_of(dense_scan(photons=1e4)), sweeps=30).subsets
    runs = [subsets.count(count) for count in sorted(set(subsets), reverse=True)]
    assert len(runs) == 3 and min(runs) >= SCHEDULE.sweeps_per_step


def test_another_schedule_is_followed() -> None:
    region = region_of(dense_scan(photons=1e4))
    one = Schedule(segments=(Segment("amplitude", 0.0, 3, ((0.5, 0.5),), 0.0),))
    found = refine(region, flat(region), sweeps=8, schedule=one)
    assert found.subsets == [2] * 8
    impatient = refine(region, found.object, sweeps=60, start="refined", schedule=replace(one, idle_sweeps=0))
    patient = refine(region, found.object, sweeps=60, start="refined", schedule=replace(one, idle_sweeps=10))
    assert len(impatient.misfits) < len(patient.misfits) <= 61
