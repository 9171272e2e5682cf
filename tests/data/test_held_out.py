"""Validation sets: who is in them, and that no other pixels are left out of the fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scans import dense_scan

from ptycho_torch.data.held_out import held_out_pixels, pick_validation_set
from ptycho_torch.data.region import Region
from ptycho_torch.data.scan import Scan


def region_of(scan: Scan, **options: Any) -> Region:
    probe = torch.as_tensor(scan.probe)
    settings = {"subsets": 6, "validation": pick_validation_set(scan.positions, probe), **options}
    return Region(scan, np.arange(len(scan)), probe, **settings)


def test_held_out_patterns_stand_in_the_order_of_the_scan_wherever_its_patterns_are_placed() -> None:
    scan = dense_scan(positions=240)
    validation = pick_validation_set(scan.positions, torch.as_tensor(scan.probe), moving=True)
    moved = replace(scan, positions=scan.positions + np.random.default_rng(0).normal(scale=4, size=(240, 2)))
    for each in (scan, moved):
        region = region_of(each, validation=validation)
        seen = np.concatenate([region.indices[batch.index.numpy()] for batch in region.validation_batches()])
        assert np.array_equal(seen, validation.patterns)


@pytest.mark.parametrize("options", [{"positions": 240, "step_px": 8.0}, {"positions": 120}])
def test_a_scan_of_little_overlap_or_few_patterns_holds_out_no_whole_pattern(options: dict[str, Any]) -> None:
    scan = dense_scan(**options)
    region = region_of(scan)
    assert region.validation_patterns == len(scan) // 4 and sum(len(batch.index) for batch in region.batches()) == len(
        scan
    )


def test_every_eighth_pixel_is_held_out_and_another_one_in_the_next_pattern() -> None:
    assert np.array_equal(held_out_pixels(np.arange(8), 32).sum(0), np.ones((32, 32)))
    scan = dense_scan()
    region = region_of(scan, validation=pick_validation_set(scan.positions, torch.as_tensor(scan.probe), moving=True))
    fitted, held_out = {}, {}
    for batch in region.batches():
        masks = batch.valid.expand(batch.amplitude.shape)
        fitted |= {int(index): mask for index, mask in zip(batch.index, masks, strict=True)}
    for batch in region.validation_batches():
        held_out |= {int(index): mask for index, mask in zip(batch.index, batch.valid, strict=True)}
    assert len(held_out) == region.validation_patterns == 30 and len(fitted) == 120
    for index, mask in held_out.items():
        assert not (mask & fitted[index]).any() and (mask | fitted[index]).all() and int(mask.sum()) == 128
