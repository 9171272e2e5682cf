"""Orientation, lag, unit, size and centre of a scan: what is asked for is exact, what can't be is mended or refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import ptycho_torch as pt
from ptycho_torch.data.geometry import (
    Orientation,
    check_canvas,
    in_pixels,
    largest_island,
    remarks,
    turned,
    with_patterns_turned,
    with_positions_turned,
    with_probe_centred,
)
from ptycho_torch.data.scan import Scan, as_modes
from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.verdict.causes import Cause
from ptycho_torch.verdict.hypotheses import orientations
from tests.scans import dense_scan


@pytest.fixture(scope="module")
def scan() -> Scan:
    return dense_scan(photons=1e6)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("flip", ["", "x", "y", "xy"])
def test_what_a_verdict_proposes_undoes_what_was_wrong(scan: Scan, swap: bool, flip: str) -> None:
    """Positions and patterns, turned and turned back; a swap undoes itself before the flips, so axes are exchanged."""
    back = flip if not swap else {"x": "y", "y": "x"}.get(flip, flip)
    wrong = with_positions_turned(scan, Orientation.of(swap=swap, flip=flip))
    again = turned(wrong, swap_axes=swap, flip=back or None)
    moved = again.positions - scan.positions
    np.testing.assert_allclose(moved, np.broadcast_to(moved[0], moved.shape), atol=1e-9)
    wrong = with_patterns_turned(scan, Orientation.of(swap=swap, flip=flip))
    again = turned(wrong, transpose_detector=swap, flip_detector=back or None)
    np.testing.assert_array_equal(again.patterns, scan.patterns)
    np.testing.assert_array_equal(again.valid, scan.valid)


def test_the_words_of_a_way_out_are_flags(scan: Scan) -> None:
    """Each proposal of the doctors is what the command line takes, and changes the scan as the trial did."""
    few = np.arange(9)
    for hypothesis in orientations(scan):
        words: dict[str, Any] = {}
        for flag in hypothesis.way_out.split("--")[1:]:
            name, _, value = flag.strip().partition(" ")
            words[name.replace("-", "_")] = value or True
        expected, found = hypothesis.change(scan, few), turned(scan.subset(few), **words)
        np.testing.assert_array_equal(found.positions, expected.positions)
        np.testing.assert_array_equal(found.patterns, expected.patterns)
    assert {hypothesis.cause for hypothesis in orientations(scan)} >= {Cause.FLIP_X, Cause.SWAP_AXES}


def test_a_lag_moves_patterns_along_the_positions(scan: Scan) -> None:
    late = turned(scan, frame_lag="1")
    assert len(late) == len(scan) - 1
    np.testing.assert_array_equal(late.positions, scan.positions[1:])
    np.testing.assert_array_equal(late.patterns, scan.patterns[:-1])
    since = turned(scan, frame_lag="-1@41")
    np.testing.assert_array_equal(since.positions[:41], scan.positions[:41])
    np.testing.assert_array_equal(since.positions[41:], scan.positions[40:-1])
    for words in ("one", "1@x", "1.5"):
        with pytest.raises(UsageError, match="K or K@J"):
            turned(scan, frame_lag=words)
    with pytest.raises(UsageError, match="no pattern"):
        turned(scan, frame_lag="999")


@pytest.mark.parametrize(("factor", "unit"), [(2e-8, "m"), (2e-2, "um"), (20.0, "nm"), (2e-5, "mm")])
def test_lengths_become_pixels_by_the_size_of_a_pixel(scan: Scan, factor: float, unit: str) -> None:
    lengths = replace(scan, positions=factor * scan.positions, pixel_size_m=2e-8)
    np.testing.assert_allclose(turned(lengths, position_unit=unit).positions, scan.positions, rtol=1e-9)
    settled = in_pixels(lengths)
    np.testing.assert_allclose(settled.positions, scan.positions, rtol=1e-9)
    assert f"in {unit}" in settled.notes[-1]
    kept = in_pixels(turned(lengths, position_unit="px"))
    np.testing.assert_array_equal(kept.positions, lengths.positions)


def test_positions_within_a_pixel_are_refused_and_usual_ones_believed(scan: Scan) -> None:
    with pytest.raises(DataError, match="span .* object pixels"):
        in_pixels(replace(scan, positions=1e-8 * scan.positions))
    assert in_pixels(scan) is scan and in_pixels(replace(scan, pixel_size_m=2e-8)).notes == scan.notes
    far = in_pixels(replace(scan, positions=100 * scan.positions))
    assert "are they in object pixels" in far.notes[-1]
    with pytest.raises(DataError, match="pixel_size_m"):
        turned(scan, position_unit="um")


def test_a_canvas_beyond_memory_is_refused_and_the_farthest_pattern_named(scan: Scan) -> None:
    check_canvas(scan, available_bytes=1e9)
    positions = scan.positions.copy()
    positions[17] += 1e6
    with pytest.raises(DataError, match="farthest is pattern 17") as refused:
        check_canvas(replace(scan, positions=positions), available_bytes=1e9)
    assert "\n" not in str(refused.value)
    with pytest.raises(DataError, match="GB"):
        pt.reconstruct(replace(scan, positions=scan.positions * 1e4))


def test_patterns_far_from_the_others_are_left_out_and_named(scan: Scan) -> None:
    positions = scan.positions.copy()
    positions[[17, 30]] += 1e6
    island = largest_island(replace(scan, positions=positions))
    assert len(island) == len(scan) - 2 and "2 of 120 patterns (17, 30)" in island.notes[-1]
    assert largest_island(scan) is scan
    assert np.isfinite(pt.reconstruct(replace(scan, positions=positions), refine=1).object).all()


def test_what_positions_cannot_tell_is_said(scan: Scan) -> None:
    assert remarks(scan) == ()
    assert "30 places" in remarks(replace(scan, positions=np.repeat(scan.positions[:30], 4, axis=0)))[0]
    assert "2 places do not determine" in remarks(scan.subset(np.array([3, 4])))[0]
    line = scan.positions * (0, 1) + (20, 0)
    assert "lie on a line" in remarks(replace(scan, positions=line))[0]
    lonely = scan.positions.copy()
    lonely[5] += 500
    assert "1 of 120 patterns share no light with any other (5)" in remarks(replace(scan, positions=lonely))[0]


@pytest.mark.parametrize("offset", [(6, 0), (-5, 7), (16, 16), (0, 16)])
def test_a_probe_off_the_centre_is_moved_there(scan: Scan, offset: tuple[int, int]) -> None:
    moved = with_probe_centred(replace(scan, probe=np.roll(scan.probe, offset, axis=(1, 2))))
    np.testing.assert_array_equal(moved.probe, scan.probe)
    assert "off the centre" in moved.notes[-1]
    assert with_probe_centred(scan) is scan
    near = replace(scan, probe=np.roll(scan.probe, offset, axis=(1, 2)), propagation="near")
    assert with_probe_centred(near) is near


@pytest.mark.parametrize("offset", [(3, -5), (16, 16)])
def test_patterns_off_the_centre_are_moved_there(scan: Scan, offset: tuple[int, int]) -> None:
    lines = list[str]()
    off = replace(scan, patterns=np.roll(scan.patterns, offset, axis=(1, 2)))
    found, control = pt.reconstruct(off, refine=6, say=lines.append), pt.reconstruct(scan, refine=6, say=lines.append)
    assert sum("to the centre of the beam" in line for line in lines) == 1
    np.testing.assert_allclose(found.object, control.object, atol=1e-5)
    assert found.verdict is not None and found.verdict.status == "good"


def test_a_probe_comes_in_any_order_of_axes() -> None:
    modes = (np.arange(3 * 16 * 16).reshape(3, 16, 16) * (1 + 2j)).astype(np.complex64)
    for form in (modes, np.moveaxis(modes, 0, -1), modes[None], modes[None, None]):
        np.testing.assert_array_equal(as_modes(form, (16,)), modes)
    np.testing.assert_array_equal(as_modes(np.stack([modes, 0 * modes]), (16,)), modes)
    np.testing.assert_array_equal(as_modes(modes[0].real, (16,)), modes[:1].real.astype(np.complex64))
    assert torch.as_tensor(as_modes(modes[0], (16,))).shape == (1, 16, 16)
