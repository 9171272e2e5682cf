"""Splits, regions and groups: nothing is lost, nothing leaks, and neighbours are neighbours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_torch.data import grouping
from ptycho_torch.data.grouping import central_region, compact_region, group_neighbours, split_by_position
from ptycho_torch.data.subsets import interleaved_subsets
from ptycho_torch.errors import DataError, UsageError


def scattered(n: int, seed: int, *, on_grid: bool = False) -> np.ndarray:
    positions = np.random.default_rng(seed).uniform(0, 40, (n, 2)) * (1, 3)
    return positions.round(-1) if on_grid else positions


scans = st.builds(scattered, st.integers(2, 90), st.integers(0, 2**16), on_grid=st.booleans())


@given(scans, st.floats(0.001, 0.99))
def test_split_holds_out_a_strip_and_no_pattern_is_on_both_sides(positions, fraction):
    kept, held_out = split_by_position(positions, fraction)
    assert kept.dtype == held_out.dtype == np.int64
    assert sorted([*kept, *held_out]) == list(range(len(positions)))
    assert len(kept) >= 1
    assert len(held_out) >= 1
    axis = np.argmax(np.ptp(positions, axis=0))
    assert positions[kept, axis].max() <= positions[held_out, axis].min()
    again = split_by_position(positions, fraction)
    assert np.array_equal(kept, again[0])


def test_split_takes_the_stated_fraction_of_the_longer_side():
    y, x = np.mgrid[:5, :20].reshape(2, -1)
    kept, held_out = split_by_position(np.stack([y, x], axis=1).astype(float), 0.1)
    assert set(x[held_out]) == {18, 19}
    assert len(kept) == 90


def test_a_fraction_of_zero_holds_nothing_out():
    kept, held_out = split_by_position(scattered(7, 0), 0)
    assert (len(kept), len(held_out)) == (7, 0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_split_refuses_a_fraction_that_is_none(fraction):
    with pytest.raises(UsageError, match="fraction"):
        split_by_position(scattered(7, 0), fraction)


@given(scans, st.data())
def test_region_is_the_nearest_patterns_with_the_anchor_first(positions, data):
    anchor = data.draw(st.integers(0, len(positions) - 1))
    count = data.draw(st.integers(1, len(positions)))
    region = compact_region(positions, anchor, count)
    assert region[0] == anchor
    assert len(set(region)) == len(region) == count
    distances = np.hypot(*(positions - positions[anchor]).T)
    outside = np.setdiff1d(np.arange(len(positions)), region)
    assert (np.diff(distances[region]) >= 0).all()
    assert distances[outside].min(initial=np.inf) >= distances[region].max()


def test_ties_go_to_the_lower_index_and_the_anchor_still_leads():
    positions = np.zeros((4, 2))
    assert compact_region(positions, 2, 3).tolist() == [2, 0, 1]
    assert central_region(positions, 3).tolist() == [0, 1, 2]


@given(scans, st.data())
def test_central_region_lies_around_the_middle_of_the_bounding_box(positions, data):
    count = data.draw(st.integers(1, len(positions)))
    region = central_region(positions, count)
    distances = np.hypot(*(positions - (positions.min(0) + positions.max(0)) / 2).T)
    np.testing.assert_allclose(np.sort(distances[region]), np.sort(distances)[:count], rtol=1e-12)
    assert len(set(region)) == count


def test_a_region_larger_than_the_scan_is_refused():
    with pytest.raises(UsageError, match="8 patterns are asked for"):
        compact_region(scattered(7, 0), 0, 8)


@given(scans, st.integers(1, 20))
def test_groups_hold_every_pattern_and_repeat_only_to_fill_the_last(positions, size):
    n = len(positions)
    if n < size:
        with pytest.raises(DataError, match="gridsize"):
            group_neighbours(positions, size)
        return
    groups = group_neighbours(positions, size)
    assert groups.shape == (-(-n // size), size)
    assert groups.dtype == np.int64
    assert set(groups.ravel()) == set(range(n))
    once = groups.ravel()[: n // size * size]
    assert len(set(once)) == len(once)
    assert all(len(set(group)) == size for group in groups)
    own = groups.ravel()[:n]
    assert len(set(own)) == n  # the last group's own patterns stand before those that fill it up


def test_groups_on_a_raster_are_two_by_two():
    y, x = np.mgrid[:8, :16].reshape(2, -1)
    order = np.random.default_rng(3).permutation(len(y))
    positions = np.stack([y, x], axis=1)[order] * 7.0
    groups = group_neighbours(positions, 4)
    assert np.ptp(positions[groups], axis=1).max() == 7.0


def test_groups_of_scattered_patterns_are_compact():
    positions = np.random.default_rng(4).uniform(0, 100, (2500, 2))  # a mean distance of 2 between neighbours
    reach = np.hypot(*np.ptp(positions[group_neighbours(positions, 4)], axis=1).T)
    assert np.median(reach) < 5
    assert reach.max() < 12


def test_the_last_group_is_filled_with_neighbours():
    positions = np.stack([np.zeros(9), np.arange(9.0)], axis=1)
    groups = group_neighbours(positions, 4)
    assert set(groups[-1]) == {5, 6, 7, 8}
    assert groups[-1, 0] == 8


def test_grouping_sorts_each_pattern_a_logarithmic_number_of_times(monkeypatch):
    positions, sorted_at_once = np.random.default_rng(5).uniform(0, 1500, (20_000, 2)), []

    def along(some):
        sorted_at_once.append(len(some))
        return along_longer_side(some)

    along_longer_side = grouping._along_longer_side
    monkeypatch.setattr(grouping, "_along_longer_side", along)
    assert len(group_neighbours(positions, 4)) == 5000
    assert sum(sorted_at_once) <= len(positions) * np.ceil(np.log2(5000))


@given(scans, st.integers(1, 12))
def test_interleaved_subsets_hold_every_pattern_once_in_like_numbers(positions, count):
    subsets = interleaved_subsets(positions, count)
    assert sorted(np.concatenate(subsets)) == list(range(len(positions)))
    assert len(subsets) == min(count, len(positions))
    assert np.ptp([len(subset) for subset in subsets]) <= 1
