"""One small scan in the layouts of the field's programs, as their own files were found to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.scan import Scan
from ptycho_torch.simulation.acquire import acquire, object_shape
from ptycho_torch.simulation.variety import random_object, random_probe

HC, N = 1.239841984332e-6, 32
ENERGY_EV, DISTANCE_M, DETECTOR_M = 8000.0, 2.0, 75e-6
WAVELENGTH_M = HC / ENERGY_EV
PIXEL_M = WAVELENGTH_M * DISTANCE_M / (N * DETECTOR_M)
VOLTAGE, STEP_M, DK = 300e3, 1.2e-10, 0.1e10
JOULE = 1.602176634e-19


@dataclass(frozen=True)
class Truth:
    """Counts uint16 [n, N, N], positions (y, x) in object pixels, probe, object and bad pixels."""

    counts: np.ndarray
    positions: np.ndarray
    probe: np.ndarray
    obj: np.ndarray
    bad: np.ndarray

    @property
    def metres(self) -> np.ndarray:
        """Positions about the middle of the object, (H − 1)/2, of the middle of the probe's window."""
        return (self.positions - 0.5 - (np.array(self.obj.shape) - 1) / 2) * PIXEL_M


def a_scan(seed: int = 3, rows: int = 5, columns: int = 7, step: float = 4.0) -> Truth:
    """A jittered raster, more wide than high, of sub-pixel positions."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(rows) * step, np.arange(columns) * step, indexing="ij")
    positions = np.stack([y.ravel(), x.ravel()], axis=1) + rng.uniform(-0.7, 0.7, (rows * columns, 2)) + N / 2 + 2
    shape = object_shape(positions, N)
    obj, probe = random_object((shape[0] + 3, shape[1] + 6), rng=rng), random_probe(N, rng=rng)
    made = acquire(obj, probe[None], positions=positions, photons=1e4, noise=True, rng=rng)
    counts = np.rint(np.square(made.amplitude)).astype(np.uint16)
    bad = np.zeros((N, N), bool)
    bad[3, 20] = bad[17, 9] = True
    return Truth(counts, positions, np.asarray(made.probe[0]), obj, bad)


def ptychodus(folder: Path, t: Truth, *, diffraction: str = "diffraction.h5", product: str = "product.h5") -> Path:
    with h5py.File(folder / diffraction, "w") as file:
        patterns = file.create_dataset("patterns", data=t.counts, compression="lzf")
        patterns.attrs["detector_pixel_width_m"] = patterns.attrs["detector_pixel_height_m"] = DETECTOR_M
        file["indexes"], file["bad_pixels"] = np.arange(len(t.counts)), t.bad
    with h5py.File(folder / product, "w") as file:
        file.attrs["photon_energy_eV"], file.attrs["detector_object_distance_m"] = ENERGY_EV, DISTANCE_M
        file["probe_position_indexes"] = np.arange(len(t.counts))
        file["probe_position_y_m"], file["probe_position_x_m"] = t.metres.T
        file["probe"], file["object"] = t.probe[None, None], t.obj[None]
        for name in ("probe", "object"):
            file[name].attrs["pixel_width_m"] = file[name].attrs["pixel_height_m"] = PIXEL_M
        file["object"].attrs["center_x_m"] = file["object"].attrs["center_y_m"] = 0.0
    return folder / diffraction


def ptychodus_training(folder: Path, t: Truth) -> Path:
    y, x = (t.positions - 0.5).T
    path = folder / "training.npz"
    numbers = {"xcoords": x, "ycoords": y, "xcoords_start": x, "ycoords_start": y, "scan_index": np.zeros(len(x), int)}
    np.savez(path, diff3d=t.counts, bad_pixels=t.bad, probeGuess=t.probe[None], objectGuess=t.obj, **numbers)
    return path


def _cxi(file: h5py.File, t: Truth, translation: np.ndarray) -> None:
    detector = file.create_group("entry_1/instrument_1/detector_1")
    detector["data"], detector["mask"] = t.counts, t.bad.astype(np.uint32) + 0x1000 * (t.counts.sum(0) > 0)
    detector["distance"], detector["x_pixel_size"], detector["y_pixel_size"] = DISTANCE_M, DETECTOR_M, DETECTOR_M
    file["entry_1/instrument_1/source_1/energy"] = ENERGY_EV * JOULE
    file["entry_1/sample_1/geometry_1/translation"] = np.column_stack([translation, np.zeros(len(translation))])
    file["cxi_version"] = 160
    file["entry_1/data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
    file["entry_1/data_1/translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")


def cdtools(folder: Path, t: Truth) -> Path:
    """Sample motion, along a basis that points to −y for rows and −x for columns."""
    with h5py.File(folder / "cdtools.cxi", "w") as file:
        _cxi(file, t, t.metres[:, ::-1])
        basis = np.array([[0.0, -DETECTOR_M], [-DETECTOR_M, 0.0], [0.0, 0.0]])
        file["entry_1/instrument_1/detector_1/basis_vectors"] = basis
        file["entry_1/program_name"] = np.bytes_("cdtools")
    return folder / "cdtools.cxi"


def cxi(folder: Path, t: Truth) -> Path:
    """Sample motion, (x, y, z), without a basis."""
    with h5py.File(folder / "any.cxi", "w") as file:
        _cxi(file, t, -t.metres[:, ::-1])
    return folder / "any.cxi"


def ptychodus_cxi(folder: Path, t: Truth) -> Path:
    """The probe's place instead, in two files."""
    with h5py.File(folder / "run_diffraction.cxi", "w") as file:
        _cxi(file, t, t.metres[:, ::-1])
        del file["entry_1/data_1/translation"], file["entry_1/sample_1"]
        file["entry_1/ptychodus/exposure_time_s"] = 0.1
    with h5py.File(folder / "run_product.cxi", "w") as file:
        file["cxi_version"], file["entry_1/process_1/program"] = 160, "Ptychodus"
        places = np.column_stack([t.metres[:, ::-1], np.zeros(len(t.metres))])
        file["entry_1/sample_1/geometry_1/translation"] = places
        file["entry_1/image_1/data"], file["entry_1/image_2/data"] = t.probe[None, None], t.obj[None]
        mine = file.create_group("entry_1/ptychodus")
        mine["probe_position_indexes"] = np.arange(len(t.counts))
        for axis, side in (("x", "width"), ("y", "height")):
            mine[f"object_center_{axis}_m"], mine[f"object_pixel_{side}_m"] = 0.0, PIXEL_M
    return folder / "run_diffraction.cxi"


def nexus(folder: Path, t: Truth) -> Path:
    path = folder / "scan.nxs"
    with h5py.File(path, "w") as file:
        file["entry_1/definition"] = "NXcxi_ptycho"

        def put(key: str, value: object, unit: str) -> None:
            file[f"entry_1/{key}"] = value
            file[f"entry_1/{key}"].attrs["units"] = unit

        put("instrument_1/source_1/energy", 3.0, "GeV")
        put("instrument_1/beam_1/energy", ENERGY_EV / 1e3, "keV")
        put("instrument_1/detector_1/distance", DISTANCE_M * 1e3, "mm")
        for axis in "xy":
            put(f"instrument_1/detector_1/{axis}_pixel_size", DETECTOR_M * 1e6, "um")
            put(f"instrument_1/detector_1/beam_center_{axis}", N // 2 * DETECTOR_M * 1e6, "um")
        places = np.column_stack([-t.metres[:, ::-1], np.zeros(len(t.metres))]) * 1e6
        put("instrument_1/detector_1/translation", places, "um")
        file["entry_1/instrument_1/detector_1/mask"] = t.bad.astype(np.uint32)
        file["entry_1/instrument_1/detector_1/data"] = t.counts
    return path


def ptypy(folder: Path, t: Truth) -> Path:
    path = folder / "scan.ptyd"
    with h5py.File(path, "w") as file:
        for number, part in enumerate(np.array_split(np.arange(len(t.counts)), 3)):
            chunk = file.create_group(f"chunks/{number}")
            chunk["data"], chunk["indices"], chunk["positions"] = t.counts[part], part, t.metres[part]
            chunk["weights"] = np.broadcast_to(~t.bad, (len(part), N, N)).astype(np.uint8)
        file["info/propagation"] = "farfield"
        file["info/energy"], file["info/distance"], file["info/psize"] = ENERGY_EV / 1e3, DISTANCE_M, DETECTOR_M
        file["info/center"] = np.array([N / 2, N / 2])
    return path


def pty_chi(folder: Path, t: Truth) -> Path:
    with h5py.File(folder / "scan_dp.hdf5", "w") as file:
        file.create_dataset("dp", data=t.counts.astype(np.float32), **hdf5plugin.Bitshuffle())
    with h5py.File(folder / "scan_para.hdf5", "w") as file:
        file["probe_position_y_m"], file["probe_position_x_m"] = t.metres.T
        file["object"], file["probe"] = t.obj[None], t.probe[None, None]
        file["object"].attrs["pixel_height_m"] = file["object"].attrs["pixel_width_m"] = PIXEL_M
        file["object"].attrs["center_x_m"] = file["object"].attrs["center_y_m"] = 0.0
    return folder / "scan_dp.hdf5"


def fold_slice(folder: Path, t: Truth) -> Path:
    with h5py.File(folder / "data_roi0_dp.hdf5", "w") as file:
        file["dp"] = t.counts
    with h5py.File(folder / "data_roi0_para.hdf5", "w") as file:
        file["ppY"], file["ppX"] = t.metres.T
        file["lambda"], file["dx"] = WAVELENGTH_M, PIXEL_M
    return folder / "data_roi0_para.hdf5"


def _matlab_parts(t: Truth) -> tuple[np.ndarray, np.ndarray]:
    height, width = t.obj.shape
    start = np.array([np.ceil(width / 2 - N / 2), np.ceil(height / 2 - N / 2)]) - 1
    return t.positions[:, ::-1] - N // 2 - start, np.array([PIXEL_M, PIXEL_M])


def matlab_5(folder: Path, t: Truth) -> Path:
    from scipy.io import savemat

    places, spec = _matlab_parts(t)
    with h5py.File(folder / "dp.h5", "w") as file:
        file["dp"] = t.counts
    p = {"lambda": WAVELENGTH_M, "dx_spec": spec}
    held = {"object": t.obj, "probe": t.probe, "outputs": {"probe_positions": places}, "p": p}
    savemat(folder / "Niter100.mat", held)
    return folder / "Niter100.mat"


def matlab_73(folder: Path, t: Truth) -> Path:
    """The same in HDF5: axes in reverse order, complex numbers as pairs, a text before the file."""
    places, spec = _matlab_parts(t)
    pairs = np.dtype([("real", "f8"), ("imag", "f8")])
    path = folder / "Niter200.mat"
    with h5py.File(folder / "dp.h5", "w") as file:
        file["dp"] = t.counts
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in (("object", t.obj), ("probe", t.probe)):
            file[name] = np.ascontiguousarray(values.T).astype(np.complex128).view(pairs)
        file["outputs/probe_positions"], file["p/dx_spec"], file["p/lambda"] = places.T, spec[:, None], WAVELENGTH_M
    return path


def ptyrad(folder: Path, t: Truth) -> Path:
    corners = np.rint(t.positions - N // 2)
    with h5py.File(folder / "meas.hdf5", "w") as file:
        file["dp"] = t.counts
    with h5py.File(folder / "model_iter0010.hdf5", "w") as file:
        file["optimizable_tensors/probe"] = t.probe[None]
        file["optimizable_tensors/obja"], file["optimizable_tensors/objp"] = (
            np.abs(t.obj)[None, None],
            np.angle(t.obj)[None, None],
        )
        file["optimizable_tensors/probe_pos_shifts"] = t.positions - N // 2 - corners
        file["model_attributes/crop_pos"], file["model_attributes/dx"] = corners.astype(np.int32), PIXEL_M * 1e10
        file["params/init_params/probe_kv"] = 300.0
    return folder / "meas.hdf5"


def ptylab(folder: Path, t: Truth) -> Path:
    path = folder / "ptylab.hdf5"
    with h5py.File(path, "w") as file:
        file["ptychogram"], file["encoder"] = t.counts.astype(np.float32), t.metres
        file["wavelength"], file["zo"], file["dxd"] = [WAVELENGTH_M], [DISTANCE_M], [DETECTOR_M]
    return path


def hxn(folder: Path, t: Truth) -> Path:
    path = folder / "scan_1.h5"
    with h5py.File(path, "w") as file:
        file["diffamp"], file["points"] = np.sqrt(t.counts).astype(np.float32), t.metres.T[::-1] * 1e6
        file["lambda_nm"], file["z_m"], file["ccd_pixel_um"] = WAVELENGTH_M * 1e9, DISTANCE_M, DETECTOR_M * 1e6
    return path


def eiger(folder: Path, t: Truth) -> Path:
    """Larger frames with the beam off their middle, in two linked files, bad pixels at the largest number."""
    frames = np.zeros((len(t.counts), N + 13, N + 24), np.uint32)
    frames[:, 5 : 5 + N, 9 : 9 + N] = t.counts
    mask = np.zeros(frames.shape[1:], np.uint32)
    mask[5 : 5 + N, 9 : 9 + N] = np.where(t.bad, 2, 0)
    frames[:, mask > 0] = 2**32 - 1
    path = folder / "scan_master.h5"
    with h5py.File(path, "w") as file:
        for number, part in enumerate(np.array_split(np.arange(len(frames)), 2), start=1):
            name = f"scan_data_{number:06d}.h5"
            with h5py.File(folder / name, "w") as data:
                data.create_dataset("entry/data/data", data=frames[part], chunks=(1, *mask.shape), **hdf5plugin.LZ4())
            file[f"entry/data/data_{number:06d}"] = h5py.ExternalLink(name, "entry/data/data")
        detector = file.create_group("entry/instrument/detector")
        detector["beam_center_y"], detector["beam_center_x"] = 5.0 + N // 2, 9.0 + N // 2
        detector["y_pixel_size"] = detector["x_pixel_size"] = DETECTOR_M
        detector["detector_distance"], detector["detectorSpecific/photon_energy"] = DISTANCE_M, ENERGY_EV
        detector["detectorSpecific/pixel_mask"] = mask
    lines = [f"{k},{x:.9f},{y:.9f}" for k, (y, x) in enumerate(t.metres * 1e6)]
    (folder / "scan_positions.csv").write_text("\n".join(["point,x_um,y_um", *lines]))
    return path


def tiff(folder: Path, t: Truth) -> Path:
    import tifffile

    tifffile.imwrite(folder / "patterns.tif", t.counts, photometric="minisblack")
    tifffile.imwrite(folder / "bad_pixels.tif", t.bad.astype(np.uint8))
    np.savetxt(folder / "positions.csv", t.metres, delimiter=",", fmt="%.12e")
    (folder / "scan.toml").write_text(f"energy_eV = {ENERGY_EV}\ndistance_m = {DISTANCE_M}\ndetector_pixel_m = 75e-6\n")
    return folder / "patterns.tif"


def npy(folder: Path, t: Truth) -> Path:
    """What no file tells has to be stated."""
    np.save(folder / "patterns.npy", t.counts)
    np.save(folder / "probe.npy", t.probe)
    np.savetxt(folder / "positions.txt", t.metres[:, ::-1], fmt="%.12e")
    return folder / "patterns.npy"


def as_scan(folder: Path, t: Truth) -> Scan:
    """The scan of ptychodus' files in a new folder, pixels and values as they are."""
    folder.mkdir()
    return read_scan(ptychodus(folder, t), trust_detector=True)
