"""Other programs read what we write, and we what they write: run by `.ci/peers`, skipped where they are missing.

py4DSTEM needs another NumPy than we do: `PY4DSTEM_PYTHON` names an interpreter that has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.formats.writers import write_scan
from ptycho_torch.data.scan import Scan

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import layouts
from layouts import ENERGY_EV, PIXEL_M, WAVELENGTH_M, N, Truth

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def truth() -> Truth:
    return layouts.a_scan()


@pytest.fixture
def scan(truth: Truth, tmp_path: Path) -> Scan:
    return layouts.as_scan(tmp_path / "given", truth)


def test_cdtools_reads_our_cxi(scan: Scan, tmp_path: Path) -> None:
    datasets = pytest.importorskip("cdtools.datasets", reason="cdtools is not installed (pip install cdtools-py)")
    write_scan(tmp_path / "scan.cxi", scan)
    found = datasets.Ptycho2DDataset.from_cxi(tmp_path / "scan.cxi")
    basis = np.asarray(found.detector_geometry["basis"])
    places = found.translations.numpy() @ (basis / np.linalg.norm(basis, axis=0)) / PIXEL_M
    assert np.ptp(places - scan.positions, axis=0).max() < 1e-3
    assert np.array_equal(np.asarray(found.mask, bool), scan.valid) and found.patterns.shape == (len(scan), N, N)


@pytest.mark.parametrize("name", ["folder", "scan.cxi"])
def test_ptychodus_reads_our_files(name: str, scan: Scan, tmp_path: Path) -> None:
    files = pytest.importorskip("ptychodus.api.io", reason="ptychodus is not installed (pip install ptychodus)")
    write_scan(tmp_path / name, scan)
    if name == "folder":
        product = files.load_product(tmp_path / name / "product.h5")
        assert files.load_diffraction_data(tmp_path / name / "diffraction.h5").get_patterns().shape == (len(scan), N, N)
    else:
        from ptychodus.plugins.cxi_file import CXIProductFileIO

        product = CXIProductFileIO().read(tmp_path / name)
    centre, size = product.object_.get_center(), np.array(product.object_.get_array().shape[-2:])
    metres = np.array([[place.y_m, place.x_m] for place in product.probe_positions])
    places = (metres - [centre.y_m, centre.x_m]) / product.object_.get_pixel_geometry().width_m + (size - 1) / 2
    assert np.abs(places + 0.5 - scan.positions).max() < 1e-6
    assert product.metadata.photon_energy_eV == pytest.approx(ENERGY_EV)


def test_we_read_what_ptychodus_writes(scan: Scan, tmp_path: Path) -> None:
    files = pytest.importorskip("ptychodus.api.io", reason="ptychodus is not installed (pip install ptychodus)")
    write_scan(tmp_path / "ours", scan)
    (tmp_path / "theirs").mkdir()
    for name, load, save in (
        ("product.h5", files.load_product, files.save_product),
        ("diffraction.h5", files.load_diffraction_data, files.save_diffraction_data),
    ):
        save(tmp_path / "theirs" / name, load(tmp_path / "ours" / name))
    again = read_scan(tmp_path / "theirs", trust_detector=True)
    np.testing.assert_allclose(again.positions, scan.positions, atol=1e-6)
    np.testing.assert_array_equal(again.counts(slice(None)), scan.counts(slice(None)) * scan.valid)
    np.testing.assert_allclose(again.probe, scan.probe, rtol=1e-6)


def test_we_read_the_npz_files_of_ptychodus(scan: Scan, tmp_path: Path) -> None:
    files = pytest.importorskip("ptychodus.api.io", reason="ptychodus is not installed (pip install ptychodus)")
    from ptychodus.plugins.npz_diffraction_file import NPZDiffractionFileIO
    from ptychodus.plugins.npz_product_file import NPZProductFileIO

    write_scan(tmp_path / "ours", scan)
    patterns = files.load_diffraction_data(tmp_path / "ours" / "diffraction.h5")

    class Dataset(list):  # what the writer asks of a data set of ptychodus
        get_bad_pixels = staticmethod(patterns.get_bad_pixels)

    NPZDiffractionFileIO().write(tmp_path / "diffraction.npz", Dataset([patterns]))
    NPZProductFileIO().write(tmp_path / "product.npz", files.load_product(tmp_path / "ours" / "product.h5"))
    again = read_scan(tmp_path / "product.npz", trust_detector=True)
    np.testing.assert_allclose(again.positions, scan.positions, atol=1e-6)
    np.testing.assert_array_equal(again.counts(slice(None)), scan.counts(slice(None)) * scan.valid)
    assert again.pixel_size_m == pytest.approx(PIXEL_M) and again.wavelength_m == pytest.approx(WAVELENGTH_M)
    assert again.obj is not None and np.array_equal(again.valid, scan.valid)


def test_ptylab_reads_our_file(scan: Scan, tmp_path: Path) -> None:
    pytest.importorskip("PtyLab", reason="PtyLab is not installed (pip install ptylab)")
    from PtyLab.ExperimentalData.ExperimentalData import ExperimentalData
    from PtyLab.Params.Params import Params
    from PtyLab.Reconstruction.Reconstruction import Reconstruction

    write_scan(tmp_path / "scan_ptylab.hdf5", scan)
    found = ExperimentalData(str(tmp_path / "scan_ptylab.hdf5"), "CPM")
    np.testing.assert_array_equal(found.ptychogram, scan.counts(slice(None)) * scan.valid)
    theirs = Reconstruction(found, Params())
    assert theirs.dxo == pytest.approx(PIXEL_M) and theirs.wavelength == pytest.approx(WAVELENGTH_M)
    places = np.asarray(found.encoder) / theirs.dxo
    assert np.ptp(places - scan.positions, axis=0).max() < 1e-3


def test_the_forward_model_of_ptychi_predicts_our_pair(truth: Truth, scan: Scan, tmp_path: Path) -> None:
    """Its loss with our object and our positions is photon noise, and far more with swapped positions."""
    if "torchvision" not in sys.modules:  # which it imports for a blur alone
        stub, transforms = types.ModuleType("torchvision"), types.ModuleType("torchvision.transforms")
        transforms.GaussianBlur = stub.transforms = transforms  # type: ignore[attr-defined]
        sys.modules.update({"torchvision": stub, "torchvision.transforms": transforms})
    api = pytest.importorskip("ptychi.api", reason="pty-chi is not installed (pip install ptychi)")
    from ptychi.api.task import PtychographyTask
    from ptychi.utils import rescale_probe

    write_scan(tmp_path / "scan_dp.hdf5", scan)
    with h5py.File(tmp_path / "scan_dp.hdf5") as data, h5py.File(tmp_path / "scan_para.hdf5") as para:
        counts, probe, obj = data["dp"][:], para["probe"][:], para["object"][:]
        places = np.stack([para["probe_position_y_m"][:], para["probe_position_x_m"][:]], axis=1) / PIXEL_M

    def loss(places: np.ndarray) -> float:
        options = api.EPIEOptions()
        options.data_options.data = counts.astype(np.float32)
        options.data_options.wavelength_m = WAVELENGTH_M
        options.data_options.valid_pixel_mask = scan.valid
        options.object_options.initial_guess, options.object_options.pixel_size_m = obj, PIXEL_M
        options.object_options.step_size, options.probe_options.optimizable = 1e-9, False
        options.probe_options.initial_guess = rescale_probe(probe, counts)  # its transform is not unitary
        options.probe_position_options.position_y_px, options.probe_position_options.position_x_px = places.T
        options.reconstructor_options.num_epochs = 1
        options.reconstructor_options.default_device = api.Devices.CPU
        task = PtychographyTask(options)
        task.run()
        return float(task.reconstructor.loss_tracker.table["loss"].iloc[-1])

    right, wrong = loss(places), loss(places[:, ::-1])
    assert right < 0.2 * wrong


def by_py4dstem(code: str, *arguments: object) -> Any:
    """What a program with py4DSTEM prints as JSON."""
    python = os.environ.get("PY4DSTEM_PYTHON")
    if not python:
        pytest.skip("no PY4DSTEM_PYTHON: an interpreter with py4DSTEM (pip install py4DSTEM), which .ci/peers makes")
    words = [python, "-W", "ignore", "-c", code, *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def a_raster(scan: Scan) -> Scan:
    row, column = np.divmod(np.arange(len(scan)), 5)
    places = np.stack([row, column], axis=1) * 4.0
    counts = (scan.counts(slice(None)) * scan.valid).astype(np.float32)
    known: dict[str, Any] = {"pixel_size_m": 2e-11, "wavelength_m": 1.97e-12, "domain": "counts"}
    return Scan.from_arrays(counts, places, probe=scan.probe, trust_detector=True, **known)


def test_py4dstem_reads_our_raster(scan: Scan, tmp_path: Path) -> None:
    code = """
import json, sys, py4DSTEM
cube = py4DSTEM.read(sys.argv[1])
told = cube.calibration
print(json.dumps([list(cube.data.shape), int(cube.data.sum()), told.get_R_pixel_size(), told.get_R_pixel_units(),
    told.get_Q_pixel_size(), told.get_Q_pixel_units(), bool(told.get_QR_flip()), told.get_QR_rotation_degrees()]))
"""
    raster = a_raster(scan)
    write_scan(tmp_path / "scan.emd", raster)
    shape, total, step, step_unit, side, side_unit, flip, degrees = by_py4dstem(code, tmp_path / "scan.emd")
    assert shape == [len(raster) // 5, 5, N, N] and total == int(raster.counts(slice(None)).sum())
    assert (step, step_unit) == (pytest.approx(4 * 0.2), "A") and not flip and abs(degrees) < 1e-9
    assert (side, side_unit) == (pytest.approx(1 / (N * 0.2)), "A^-1")


def test_we_read_what_py4dstem_writes(scan: Scan, tmp_path: Path) -> None:
    code = """
import json, sys, numpy as np, py4DSTEM
cube = py4DSTEM.DataCube(np.load(sys.argv[1]))
told = cube.calibration
told.set_R_pixel_size(0.8), told.set_R_pixel_units("A")
told.set_Q_pixel_size(float(sys.argv[3])), told.set_Q_pixel_units("A^-1")
told["accelerating_voltage"] = 300e3
py4DSTEM.save(sys.argv[2], cube, mode="o")
print(json.dumps("done"))
"""
    raster = a_raster(scan)
    counts = raster.counts(slice(None)).reshape(-1, 5, N, N)
    np.save(tmp_path / "cube.npy", counts)
    by_py4dstem(code, tmp_path / "cube.npy", tmp_path / "theirs.h5", 1 / (N * 0.2))
    again = read_scan(tmp_path / "theirs.h5", trust_detector=True)
    assert np.ptp(again.positions - raster.positions, axis=0).max() < 1e-6
    assert again.pixel_size_m == pytest.approx(2e-11)
    np.testing.assert_array_equal(again.counts(7), raster.counts(7))


def test_we_read_what_cdtools_writes(scan: Scan, tmp_path: Path) -> None:
    datasets = pytest.importorskip("cdtools.datasets", reason="cdtools is not installed (pip install cdtools-py)")
    write_scan(tmp_path / "ours.cxi", scan)
    datasets.Ptycho2DDataset.from_cxi(tmp_path / "ours.cxi").to_cxi(tmp_path / "theirs.cxi")
    again = read_scan(tmp_path / "theirs.cxi", trust_detector=True)
    assert np.ptp(again.positions - scan.positions, axis=0).max() < 1e-3
    assert again.pixel_size_m == pytest.approx(PIXEL_M, rel=1e-4) and np.array_equal(again.valid, scan.valid)
    np.testing.assert_allclose(again.counts(3), scan.counts(3) * scan.valid, rtol=1e-5)
