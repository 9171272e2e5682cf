"""What we write is the same scan again, for us and for the programs whose formats they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import layouts
import numpy as np
import pytest
from layouts import DETECTOR_M, DISTANCE_M, ENERGY_EV, PIXEL_M, WAVELENGTH_M, Truth

import ptycho_torch as pt
from ptycho_torch.cli import main
from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.formats.writers import write_scan
from ptycho_torch.data.geometry import turned
from ptycho_torch.data.scan import Scan

NAMES = ("scan.npz", "scan.cxi", "scan.ptyd", "scan_dp.hdf5", "scan_ptylab.hdf5", "folder")
NO_MASK, NO_OBJECT, NO_PROBE = ("scan_dp.hdf5", "scan_ptylab.hdf5"), ("scan.ptyd", "scan_ptylab.hdf5"), ("scan.ptyd",)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return layouts.a_scan()


@pytest.fixture
def scan(truth: Truth, tmp_path: Path) -> Scan:
    return layouts.as_scan(tmp_path / "given", truth)


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_read_again_as_the_same_scan(name: str, scan: Scan, tmp_path: Path) -> None:
    write_scan(tmp_path / name, scan)
    again = read_scan(tmp_path / name, trust_detector=True)
    offset = again.positions - scan.positions
    assert np.ptp(offset, axis=0).max() < 1e-6
    np.testing.assert_allclose(again.counts(slice(None)), scan.counts(slice(None)), rtol=1e-5)
    assert again.pixel_size_m == pytest.approx(PIXEL_M) and again.wavelength_m == pytest.approx(WAVELENGTH_M)
    if name not in NO_MASK:
        assert np.array_equal(again.valid, scan.valid)
    if name not in NO_PROBE:
        np.testing.assert_allclose(again.probe, scan.probe, rtol=1e-6)
    if name not in NO_OBJECT:
        assert again.obj is not None and np.abs(offset).max() < 1e-6
        height, width = scan.obj.shape
        np.testing.assert_allclose(again.obj[:height, :width], scan.obj)


def test_a_reconstruction_is_written_on_the_grid_of_the_object(scan: Scan, tmp_path: Path) -> None:
    result = pt.reconstruct(scan, refine=5, diagnose=False)
    write_scan(tmp_path / "out", scan, result)
    assert scan.obj is not None
    with h5py.File(tmp_path / "out" / "product.h5") as file:
        obj, attributes = file["object"][0], dict(file["object"].attrs)
        assert obj.shape == scan.obj.shape and attributes["center_x_m"] == attributes["center_y_m"] == 0
        assert file.attrs["photon_energy_eV"] == pytest.approx(ENERGY_EV)
        assert file.attrs["detector_object_distance_m"] == DISTANCE_M
    with h5py.File(tmp_path / "out" / "diffraction.h5") as file:
        assert file["patterns"].attrs["detector_pixel_width_m"] == pytest.approx(DETECTOR_M)
        assert file["patterns"].dtype == np.uint16 and file["bad_pixels"][3, 20]
    y, x = result.origin
    height, width = result.object.shape
    y0, x0 = max(y, 0), max(x, 0)
    part = result.object[y0 - y : min(height, scan.obj.shape[0] - y), x0 - x : min(width, scan.obj.shape[1] - x)]
    np.testing.assert_array_equal(obj[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]], part)


def test_what_a_format_needs_and_the_scan_lacks_is_named(scan: Scan, truth: Truth, tmp_path: Path, capsys) -> None:
    plain = layouts.ptychodus_training(tmp_path, truth)
    assert main(["convert", str(plain), str(tmp_path / "scan.cxi")]) == 3
    error = capsys.readouterr().err
    assert "--pixel-size" in error and error.count("\n") == 1
    assert main(["convert", str(plain), str(tmp_path / "scan.png")]) == 2
    assert ".cxi" in capsys.readouterr().err
    words = ["--pixel-size", "64.6nm", "--photon-energy", "8keV"]
    assert main(["convert", str(plain), str(tmp_path / "scan.cxi"), *words]) == 0
    again = read_scan(tmp_path / "scan.cxi", trust_detector=True)
    assert np.ptp(again.positions - truth.positions, axis=0).max() < 1e-6
    assert again.pixel_size_m == pytest.approx(64.6e-9)


def test_a_reconstruction_goes_along(truth: Truth, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    path = layouts.ptychodus(given, truth)
    assert main(["run", str(path), "--output_dir", str(tmp_path / "out"), "--sweeps", "3", "--no-diagnose"]) == 0
    result = tmp_path / "out" / "reconstruction.npz"
    assert main(["convert", str(path), str(tmp_path / "done.cxi"), "--result", str(result)]) == 0
    found = read_scan(tmp_path / "done.cxi")
    assert found.obj is not None and not np.array_equal(found.obj, truth.obj)


# --- the programs themselves, where they are installed ----------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 33.0, 180.0])
def test_a_raster_is_written_for_py4dstem_as_it_lies(flip: bool, degrees: float, scan: Scan, tmp_path: Path) -> None:
    row, column = np.divmod(np.arange(len(scan)), 5)
    grid = np.stack([row, column], axis=1) * 4.0
    onto = turned(replace(scan, positions=grid, nominal_positions=grid), swap_axes=flip, rotation=f"{degrees}deg")
    write_scan(tmp_path / "scan.emd", onto)
    again = read_scan(tmp_path / "scan.emd", trust_detector=True)
    assert np.ptp(again.positions - onto.positions, axis=0).max() < 1e-6
    assert again.pixel_size_m == pytest.approx(PIXEL_M) and again.wavelength_m == pytest.approx(WAVELENGTH_M)
    np.testing.assert_array_equal(again.counts(slice(None)), scan.counts(slice(None)) * scan.valid)


def test_other_positions_than_a_raster_are_refused_by_emd(scan: Scan, tmp_path: Path) -> None:
    with pytest.raises(pt.DataError, match="no raster of equal steps"):
        write_scan(tmp_path / "scan.emd", scan)
    assert not list(tmp_path.glob("*.emd"))


@pytest.mark.parametrize("kind", ["h5", "tif", "cxi", "ptychodus"])
def test_a_result_in_another_format(kind: str, truth: Truth, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    path, out = layouts.ptychodus(given, truth), tmp_path / "out"
    words = ["--sweeps", "2", "--no-diagnose", "--quiet", "--output-format", kind]
    assert main(["run", str(path), "--output_dir", str(out), *words]) == 0
    result = pt.Reconstruction.from_file(out / "reconstruction.npz")
    if kind == "h5":
        with h5py.File(out / "reconstruction.h5") as file:  # what a viewer of NeXus follows
            shown = file[file.attrs["default"]][file[file.attrs["default"]].attrs["default"]]
            assert shown.attrs["NX_class"] == "NXdata" and list(shown.attrs["axes"]) == ["y", "x"]
            np.testing.assert_allclose(shown[shown.attrs["signal"]], np.angle(result.object), atol=1e-6)
            assert shown["x"].attrs["units"] == "um"
            assert np.diff(shown["x"][:2])[0] == pytest.approx(PIXEL_M * 1e6)
            assert shown["y"].shape == result.object.shape[:1]
        again = pt.Reconstruction.from_file(out / "reconstruction.h5")
        np.testing.assert_array_equal(again.object, result.object)
    elif kind == "tif":
        import tifffile

        amplitude, phase = tifffile.imread(out / "reconstruction.tif")
        np.testing.assert_allclose(amplitude * np.exp(1j * phase), result.object, atol=1e-5)
    else:
        found = read_scan(out / ("reconstruction.cxi" if kind == "cxi" else "ptychodus"))
        assert found.obj is not None and found.obj.shape == truth.obj.shape
        np.testing.assert_allclose(found.probe, result.probe, rtol=1e-5)


# --- the batch folder of ptychodus ------------------------------------------------------------------------------------


def test_the_batch_folder_of_ptychodus(truth: Truth, tmp_path: Path, capsys) -> None:
    layouts.ptychodus(tmp_path, truth)
    with h5py.File(tmp_path / "product.h5", "r+") as file:
        file.attrs["comments"] = "kept"
        file["object"][...] = 0.5
        file["object"].attrs["center_x_m"] = 3e-9  # half a pixel would be 39 nm: no array of ours lies there
    words = ["--sweeps", "20", "--no-diagnose", "--quiet"]
    assert main(["ptychodus", str(tmp_path), *words]) == 0
    with h5py.File(tmp_path / "product.h5") as file, h5py.File(tmp_path / "product-in.h5") as given:
        obj = file["object"][0]
        assert obj.shape == truth.obj.shape and file.attrs["comments"] == "kept"
        assert dict(file["object"].attrs) == dict(given["object"].attrs)
        assert np.array_equal(file["probe_position_x_m"][()], given["probe_position_x_m"][()])
        assert (given["object"][()] == 0.5).all() and obj[0, 0] == 0.5
        middle = (slice(20, -20), slice(20, -20))
        ours, wanted = obj[middle], truth.obj[middle]
    ours = ours * np.vdot(ours, wanted) / np.vdot(ours, ours)
    assert np.abs(np.vdot(ours - ours.mean(), wanted - wanted.mean())) > 0.95 * (
        np.linalg.norm(ours - ours.mean()) * np.linalg.norm(wanted - wanted.mean())
    )
    before = (tmp_path / "product-in.h5").read_bytes()
    assert main(["ptychodus", str(tmp_path), *words]) == 0  # again, from the same input
    assert (tmp_path / "product-in.h5").read_bytes() == before
    assert main(["ptychodus", str(tmp_path / "nowhere")]) == 3


def test_what_a_format_has_no_place_for_is_said(truth: Truth, tmp_path: Path, capsys) -> None:
    path = layouts.ptychodus(tmp_path, truth)
    for name, lost in (("a.ptyd", "the probe and the object"), ("a_ptylab.hdf5", "the mask and the object")):
        assert main(["convert", str(path), str(tmp_path / name)]) == 0
        assert f"no place for {lost}" in capsys.readouterr().err
    assert main(["convert", str(path), str(tmp_path / "a.cxi")]) == 0
    assert not capsys.readouterr().err
