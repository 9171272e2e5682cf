"""A near-field scan carries its propagation from the file to the forward model, or is refused in one line."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.formats.npz import write_scan_npz
from ptycho_torch.data.scan import Scan
from ptycho_torch.errors import DataError
from ptycho_torch.physics.propagation import FAR_FIELD, NearField

N = 16
GEOMETRY = {"propagation_distance_m": 2e-3, "wavelength_m": 1e-10, "pixel_size_m": 2e-7}
"""Fresnel number of a pixel: 0.2."""


def arrays(**more: object) -> dict:
    counts = np.random.default_rng(0).poisson(40.0, (4, N, N))
    return {
        "diff3d": np.sqrt(counts).astype(np.float32),
        "xcoords": 10.0 + np.arange(4),
        "ycoords": 12.0 + 2 * np.arange(4),
        **more,
    }


@pytest.fixture
def near_file(tmp_path: Path) -> Path:
    write_scan_npz(tmp_path / "near.npz", arrays(propagation="near", **GEOMETRY))
    return tmp_path / "near.npz"


def test_the_file_brings_propagation_and_lengths(near_file: Path) -> None:
    scan = read_scan(near_file)
    assert scan.propagation == "near"
    assert {name: getattr(scan, name) for name in GEOMETRY} == GEOMETRY
    assert isinstance(scan.propagator, NearField)
    assert scan.fresnel_number == pytest.approx(0.2)
    assert scan.facts()["propagation"] == "near field over 2 mm, Fresnel number of a pixel 0.2"
    assert "Fresnel number" in scan.describe()[0]
    with np.load(near_file) as file:
        kinds = [file[key].dtype.kind for key in ("propagation", *GEOMETRY)]
    assert kinds == ["U", "f", "f", "f"]


def test_a_file_that_says_nothing_is_far_field(tmp_path: Path) -> None:
    for name, words in (("silent", {}), ("said", {"propagation": "far"})):
        write_scan_npz(tmp_path / f"{name}.npz", arrays(**words))
        scan = read_scan(tmp_path / f"{name}.npz")
        assert (scan.propagation, scan.propagator, scan.fresnel_number) == ("far", FAR_FIELD, None)
        assert "propagation" not in scan.facts()


@pytest.mark.parametrize("missing", GEOMETRY)
@pytest.mark.parametrize("value", [None, 0.0, -1e-3, np.nan])
def test_a_near_field_without_its_lengths_is_refused_in_one_line(
    tmp_path: Path, missing: str, value: float | None
) -> None:
    lengths = {name: length for name, length in GEOMETRY.items() if name != missing}
    stored = lengths if value is None else {**lengths, missing: value}
    write_scan_npz(tmp_path / "near.npz", arrays(propagation="near", **stored))
    with pytest.raises(DataError, match=missing) as refused:
        read_scan(tmp_path / "near.npz")
    message = str(refused.value)
    assert "\n" not in message and "Fresnel" in message
    assert not any(name in message for name in lengths)
    with pytest.raises(DataError, match=missing):
        Scan.from_arrays(
            arrays()["diff3d"],
            np.arange(8.0).reshape(4, 2),
            propagation="near",
            **{**lengths, missing: value},
        )


def test_another_propagation_is_refused_in_one_line(tmp_path: Path) -> None:
    write_scan_npz(tmp_path / "odd.npz", arrays(propagation="fraunhofer"))
    with pytest.raises(DataError, match="propagation is 'fraunhofer': far or near is needed") as refused:
        read_scan(tmp_path / "odd.npz")
    assert "\n" not in str(refused.value)


def test_parts_and_copies_keep_the_propagation(near_file: Path) -> None:
    scan = read_scan(near_file)
    for other in (scan.subset(np.array([0, 2])), replace(scan, probe=2 * scan.probe), scan.with_guessed_probe()):
        assert other.propagator == scan.propagator


def test_the_guessed_probe_makes_the_mean_pattern_on_the_detector(near_file: Path) -> None:
    """And in the far field, too: it is the wave √⟨I⟩ propagated back."""
    near = read_scan(near_file)
    for scan in (near, replace(near, propagation="far")):
        guess = torch.from_numpy(scan.with_guessed_probe().probe)
        empty_beam = scan.propagator.forward(guess)[0].abs().square()
        np.testing.assert_allclose(empty_beam, scan.mean_counts(), rtol=1e-4, atol=1e-3)
    assert near.probe_is_guess
    assert not np.allclose(abs(near.probe[0]), np.sqrt(near.mean_counts()), rtol=0.02)


def test_pixels_that_were_not_measured_leave_no_hole_in_the_guess() -> None:
    good = np.ones((N, N), bool)
    good[5, 7] = False
    scan = Scan.from_arrays(
        np.full((2, N, N), 30, np.uint16), np.array([[8.0, 8], [9, 11]]), valid=good, propagation="near", **GEOMETRY
    )
    np.testing.assert_allclose(abs(scan.probe), np.sqrt(30), rtol=1e-5)


def test_the_measured_near_field_scan() -> None:
    path = Path(os.environ.get("PTYCHO_TORCH_DATA", "."), "petra_p25_near_field.npz")
    if "PTYCHO_TORCH_DATA" not in os.environ or not path.exists():
        pytest.skip("set PTYCHO_TORCH_DATA to a folder with measured scans")
    scan = read_scan(path)
    assert (len(scan), scan.n, scan.propagation) == (200, 100, "near")
    assert scan.fresnel_number == pytest.approx(0.0896, rel=1e-3)
