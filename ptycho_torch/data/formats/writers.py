"""Scans and reconstructions as files of other programs: ptychodus, CXI, ptypy, pty-chi's pair, PtyLab, py4DSTEM.

All lengths come from one `Record`: positions in m about the middle of the object's array, as ptychodus 1.7 counts them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from ptycho_torch.data.formats.npz import write_scan_npz
from ptycho_torch.data.formats.optics import HC_EV_M, electron_voltage
from ptycho_torch.data.patterns import chunks
from ptycho_torch.data.scan import Scan
from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.files import atomic_path
from ptycho_torch.types import Reconstruction
from ptycho_torch.units import ENERGIES

NOMINAL_DISTANCE_M = 1.0
"""Of the detector where none is known: its pixels are then chosen so that the object's are right."""
ROUNDED = 2**16
RASTER_PX = 0.05
"""Up to which positions may differ from a raster's."""


@dataclass(frozen=True)
class Record:
    """A scan, and what is known of its object, in metres."""

    scan: Scan
    pixel_m: float
    wavelength_m: float
    positions: np.ndarray  # float64 [n, 2] (y, x), index of the object's array that meets the probe's pixel N//2
    probe: np.ndarray  # complex64 [mode, N, N], √photons
    obj: np.ndarray  # complex64 [H, W]

    @classmethod
    def of(cls, scan: Scan, result: Reconstruction | None = None) -> Record:
        """Of a scan, or of its reconstruction: on the grid of the scan's object where it has one.

        Raises DataError where the wavelength or the object's pixel is not known, or for the near field.
        """
        if scan.propagation != "far":
            raise DataError(f"{scan.source}: scans of the near field have no place in this format: write .npz")
        if scan.pixel_size_m is None or scan.wavelength_m is None:
            missing = "pixel of the object" if scan.pixel_size_m is None else "wavelength"
            way = "--pixel-size 12nm" if scan.pixel_size_m is None else "--photon-energy 8keV"
            raise DataError(f"{scan.source}: the {missing} is not known, and this format has lengths: add {way}")
        positions = scan.positions if result is None else result.among(scan.positions)
        probe = scan.probe if result is None or result.probe is None else result.probe
        obj, origin = _on_a_grid(scan, positions, result)
        pixel, wavelength = scan.pixel_size_m, scan.wavelength_m
        return cls(scan, pixel, wavelength, positions - origin, np.asarray(probe), obj)

    @property
    def metres(self) -> np.ndarray:
        """Positions (y, x) of the middle of the probe's window, about the middle of the object's array [m]."""
        return np.asarray((self.positions - 0.5 - (np.array(self.obj.shape) - 1) / 2) * self.pixel_m)

    @property
    def energy_ev(self) -> float:
        """hc/λ [eV]."""
        return HC_EV_M / self.wavelength_m

    @property
    def distance_m(self) -> float:
        """From the object to the detector."""
        return self.scan.detector_distance_m or NOMINAL_DISTANCE_M

    @property
    def detector_pixel_m(self) -> float:
        """λz/(N·dx)."""
        return self.wavelength_m * self.distance_m / (self.scan.n * self.pixel_m)


def _on_a_grid(scan: Scan, positions: np.ndarray, result: Reconstruction | None) -> tuple[np.ndarray, np.ndarray]:
    """The object, complex64 `[H, W]`, and where its first pixel lies on the scan's grid.

    Where the scan brings an object, the array has its size and place; where not, it just holds all windows.
    """
    obj: np.ndarray
    if scan.obj is not None:
        obj, origin = np.ones(scan.obj.shape, np.complex64), np.zeros(2, int)
        if result is None:
            return scan.obj.astype(np.complex64), origin
    else:
        half = scan.n // 2
        low, high = np.floor(positions.min(axis=0)) - half, np.ceil(positions.max(axis=0)) + half
        origin = low.astype(int)
        height, width = int(high[0] - low[0]) + 1, int(high[1] - low[1]) + 1
        obj = np.ones((height, width), np.complex64)
    if result is not None:
        result.lay_into(obj, origin)
    return obj, origin


def _stored(scan: Scan) -> np.dtype[Any]:
    """The type in which counts are stored: whole numbers where they are."""
    some = scan.counts(np.unique(np.linspace(0, len(scan) - 1, 8).astype(int)))
    if not np.array_equal(some, np.rint(some)):
        return np.dtype(np.float32)
    most = max(float(scan.counts(part).max(initial=0)) for part in chunks(len(scan), scan.n**2))
    return np.dtype(np.uint16) if most < ROUNDED else np.dtype(np.float32)


def _fill(group: Any, key: str, scan: Scan, **options: Any) -> Any:
    """The counts as a dataset `[n, N, N]`, written in parts; not measured pixels are zero."""
    kind = _stored(scan)
    shape = (len(scan), scan.n, scan.n)
    data = group.create_dataset(key, shape, kind, chunks=(1, scan.n, scan.n), **options)
    for part in chunks(len(scan), scan.n**2):
        counts = scan.counts(part)
        data[part] = np.rint(counts) if kind.kind == "u" else counts
    return data


def write_diffraction(path: Path, record: Record) -> None:
    """`diffraction.h5` of ptychodus: patterns, indexes, bad pixels and the sides of the detector's pixels."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        patterns = _fill(file, "patterns", record.scan, compression="lzf")
        for side in ("width", "height"):
            patterns.attrs[f"detector_pixel_{side}_m"] = record.detector_pixel_m
        file["indexes"], file["bad_pixels"] = np.arange(len(record.scan)), ~record.scan.valid


def write_product(path: Path, record: Record, *, name: str = "") -> None:
    """`product.h5` of ptychodus 1.7, also read by 1.2: metadata, positions, probe, object and losses."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(_metadata(record, name or record.scan.source.stem))
        write_product_arrays(file, record)


def _metadata(record: Record, name: str) -> dict[str, Any]:
    """The attributes of a product, in the names of both versions."""
    photons = float(np.square(np.abs(record.probe)).sum())
    return {
        "name": name,
        "comments": "ptycho_torch",
        "detector_object_distance_m": record.distance_m,
        "photon_energy_eV": record.energy_ev,
        "probe_energy_eV": record.energy_ev,
        "probe_photon_count": photons,
        "exposure_time_s": 0.0,
        "mass_attenuation_m2_per_kg": 0.0,
        "mass_attenuation_m2_kg": 0.0,
        "tomography_angle_deg": 0.0,
        "far_field": True,
    }


def write_product_arrays(file: Any, record: Record) -> None:
    """The datasets of a product, into an open file."""
    y, x = record.metres.T
    file["probe_position_indexes"] = np.arange(len(record.scan))
    file["probe_position_x_m"], file["probe_position_y_m"] = x, y
    probe = file.create_dataset("probe", data=record.probe[None].astype(np.complex64))
    obj = file.create_dataset("object", data=record.obj[None])
    for node in (probe, obj):
        for side in ("width", "height"):
            node.attrs[f"pixel_{side}_m"] = record.pixel_m
    weights = np.ones((len(record.scan), 1))
    file["opr_weights"] = weights
    probe.attrs["opr_weights"] = weights[:1]
    for axis in "xy":
        obj.attrs[f"center_{axis}_m"] = 0.0
    file["object_layer_spacing_m"] = np.zeros(0)
    file["loss_epochs"], file["loss_values"] = np.zeros(1, int), np.ones(1)


def write_result_into_product(path: Path, given: Path, positions: np.ndarray, result: Reconstruction) -> None:
    """A copy of a product in which probe and object are those of a reconstruction, all on the grid of its object.

    positions: float64 `[n, 2]`, those that were read from it. What lies outside of the reconstruction stays as it was;
    moved positions replace those of the product where each has its own.
    """
    import h5py

    with atomic_path(path) as temporary:
        shutil.copyfile(given, temporary)
        with h5py.File(temporary, "r+") as file:
            obj = np.array(file["object"])
            layers = obj.reshape(-1, *obj.shape[-2:])
            if len(layers) > 1:
                raise DataError(f"{given}: its object has {len(layers)} layers: one is needed")
            result.lay_into(layers[0], (0, 0))
            _replace(file, "object", layers.reshape(obj.shape))
            if result.probe is not None:
                _replace(file, "probe", result.probe[None].astype(np.complex64))
            moved = result.among(positions)
            if len(moved) == len(file["probe_position_x_m"]) and not np.array_equal(moved, positions):
                shift = (moved - positions) * [file["object"].attrs[f"pixel_{side}_m"] for side in ("height", "width")]
                for axis, by in zip("yx", shift.T, strict=True):
                    _replace(file, f"probe_position_{axis}_m", file[f"probe_position_{axis}_m"][()] + by)


def _replace(file: Any, key: str, values: np.ndarray) -> None:
    """Other numbers in a dataset, with its attributes."""
    attributes = dict(file[key].attrs)
    del file[key]
    file[key] = values
    file[key].attrs.update(attributes)


def write_ptychodus(folder: Path, record: Record) -> None:
    """A folder with `diffraction.h5` and `product.h5`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_diffraction(folder / "diffraction.h5", record)
    write_product(folder / "product.h5", record)


def write_cxi(path: Path, record: Record) -> None:
    """One CXI file for cdtools and ptychodus.

    `translation` holds the probe's place, as ptychodus takes it; cdtools takes it for the sample's, along the basis
    (−y, −x): two signs that give the probe's place again.
    """
    import h5py

    side, y_x = record.detector_pixel_m, record.metres
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["cxi_version"], file["number_of_entries"] = 160, 1
        entry = file.create_group("entry_1")
        entry["program_name"] = np.bytes_("ptycho_torch")
        detector = entry.create_group("instrument_1/detector_1")
        _fill(detector, "data", record.scan, compression="gzip", compression_opts=1)
        detector["data"].attrs["axes"] = "translation:y:x"
        detector["distance"], detector["x_pixel_size"], detector["y_pixel_size"] = record.distance_m, side, side
        detector["basis_vectors"] = np.array([[0.0, -side], [-side, 0.0], [0.0, 0.0]])
        detector["mask"] = (~record.scan.valid).astype(np.uint32)
        detector["corner_position"] = np.array([record.scan.n / 2 * side, record.scan.n / 2 * side, record.distance_m])
        source = entry.create_group("instrument_1/source_1")
        source["energy"], source["wavelength"] = record.energy_ev / ENERGIES["J"], record.wavelength_m
        translation = np.column_stack([y_x[:, 1], y_x[:, 0], np.zeros(len(y_x))])
        entry["sample_1/geometry_1/translation"] = translation
        for at in ("data_1", "instrument_1/detector_1"):
            entry[f"{at}/translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")
        entry["data_1/data"] = h5py.SoftLink("/entry_1/instrument_1/detector_1/data")
        _images(entry, record)


def _images(entry: Any, record: Record) -> None:
    """Probe and object, with what ptychodus needs beside them."""
    import h5py

    probe = entry.create_group("image_1")
    probe["data"] = record.probe[None].astype(np.complex64)
    probe["data"].attrs["axes"] = "coherent:incoherent:y:x"
    obj = entry.create_group("image_2")
    obj["data"] = record.obj[None]
    obj["data"].attrs["axes"] = "layer:y:x"
    for image, kind, shape in ((probe, "amplitude", record.probe.shape), (obj, "electron density", record.obj.shape)):
        image["data_type"], image["data_space"] = kind, "real"
        image["image_size"] = np.array([shape[-1], shape[-2], 0.0]) * record.pixel_m
    entry["instrument_1/source_1/illumination"] = h5py.SoftLink("/entry_1/image_1/data")
    mine = entry.create_group("ptychodus")
    mine["probe_photon_count"] = float(np.square(np.abs(record.probe)).sum())
    mine["exposure_time_s"], mine["mass_attenuation_m2_per_kg"], mine["tomography_angle_deg"] = 0.0, 0.0, 0.0
    mine["probe_position_indexes"] = np.arange(len(record.scan))
    mine["opr_weights"] = np.ones((len(record.scan), 1))
    mine["object_layer_spacing_m"] = np.zeros(0)
    mine["loss_epochs"], mine["loss_values"] = np.zeros(1, int), np.ones(1)
    for axis, side in (("x", "width"), ("y", "height")):
        mine[f"object_center_{axis}_m"], mine[f"object_pixel_{side}_m"] = 0.0, record.pixel_m
        mine[f"probe_pixel_{side}_m"] = record.pixel_m


def write_ptyd(path: Path, record: Record) -> None:
    """`.ptyd` of ptypy: one chunk, with its weights."""
    import h5py

    scan = record.scan
    facts: dict[str, Any] = {
        "energy": record.energy_ev / 1e3,
        "distance": record.distance_m,
        "psize": np.full(2, record.detector_pixel_m),
        "center": np.full(2, float(scan.n // 2)),
        "shape": np.full(2, scan.n),
        "num_frames": len(scan),
        "label": np.bytes_(scan.source.stem),
        "version": 0.1,
    }
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["h5rw_version"] = "0.1"
        for name in ("meta", "info", "chunks", "chunks/0"):
            file.create_group(name).attrs["type"] = "dict"
        for group, values in (("meta", facts), ("info", facts | {"propagation": np.bytes_("farfield")})):
            for key, value in values.items():
                file[group][key] = value
                kind = "array" if np.ndim(value) else "string" if isinstance(value, bytes) else "scalar"
                file[group][key].attrs["type"] = kind
        chunk = file["chunks/0"]
        _fill(chunk, "data", scan, compression="gzip", compression_opts=1)
        chunk["indices"], chunk["positions"] = np.arange(len(scan)), record.metres
        valid = np.broadcast_to(scan.valid, (len(scan), scan.n, scan.n))
        chunk.create_dataset("weights", data=valid.astype(np.uint8), compression="gzip", chunks=(1, scan.n, scan.n))
        for key, kind in (("data", "array"), ("positions", "array"), ("weights", "array"), ("indices", "arraylist")):
            chunk[key].attrs["type"] = kind


def write_pair(path: Path, record: Record) -> None:
    """`NAME_dp.hdf5` and `NAME_para.hdf5` of pty-chi, which have no place for a mask.

    The object gets even sides: pty-chi counts positions from round(H/2) − ½, which is the middle of these only.
    """
    import h5py

    odd = [(0, side % 2) for side in record.obj.shape]
    record = replace(record, obj=np.pad(record.obj, odd, constant_values=1))
    other = path.with_name(path.name.replace("_dp.", "_para."))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        _fill(file, "dp", record.scan)
    with atomic_path(other) as temporary, h5py.File(temporary, "w") as file:
        y, x = record.metres.T
        file["probe_position_x_m"], file["probe_position_y_m"] = x, y
        file["probe"], file["object"] = record.probe[None].astype(np.complex64), record.obj[None]
        file["lambda"] = record.wavelength_m
        for side in ("width", "height"):
            file["object"].attrs[f"pixel_{side}_m"] = record.pixel_m
        for axis in "xy":
            file["object"].attrs[f"center_{axis}_m"] = 0.0


def write_ptylab(path: Path, record: Record) -> None:
    """`NAME_ptylab.hdf5` of PtyLab, which has no place for a mask."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        _fill(file, "ptychogram", record.scan)
        file["encoder"], file["orientation"] = record.metres, 0
        file["dxd"], file["zo"], file["wavelength"] = record.detector_pixel_m, record.distance_m, record.wavelength_m
        file["probe"] = record.probe[:, None].astype(np.complex64)


def write_emd(path: Path, record: Record) -> None:
    """`.emd` of py4DSTEM: a raster `[slow, fast, N, N]`, its rotation and flip, no mask, no probe and no object.

    Raises DataError where the positions are no raster of equal steps.
    """
    import h5py

    scan = record.scan
    slow, fast, step, flip, degrees = _raster(record)
    voltage = electron_voltage(record.wavelength_m)
    facts = {
        "Q_pixel_size": 1e-10 / (scan.n * record.pixel_m),
        "Q_pixel_units": "A^-1",
        "R_pixel_size": step * record.pixel_m * 1e10,
        "R_pixel_units": "A",
        "QR_flip": flip,
        "QR_rotation_degrees": degrees,
        "accelerating_voltage": voltage,
        "_root_treepath": "",
    }
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update({"emd_group_type": "file", "version_major": 1, "version_minor": 0, "authoring_user": ""})
        file.attrs.update({"authoring_program": "ptycho_torch", "UUID": str(uuid4())})
        _emd_group(file, "datacube_root", "root", "Root")
        cube = _emd_group(file, "datacube_root/datacube", "array", "DataCube")
        data = cube.create_dataset("data", (slow, fast, scan.n, scan.n), _stored(scan), chunks=(1, 1, scan.n, scan.n))
        data.attrs["units"] = "pixel intensity"
        for row in range(slow):
            counts = scan.counts(slice(row * fast, (row + 1) * fast))
            data[row] = np.rint(counts) if data.dtype.kind == "u" else counts
        for axis, name in enumerate(("Rx", "Ry", "Qx", "Qy")):
            dim = cube.create_dataset(f"dim{axis}", data=[0.0, facts[f"{name[0]}_pixel_size"]])
            dim.attrs.update({"name": name, "units": facts[f"{name[0]}_pixel_units"]})
        _emd_group(file, "datacube_root/metadatabundle", "metadatabundle", "")
        told = _emd_group(file, "datacube_root/metadatabundle/calibration", "metadata", "Calibration")
        for key, value in facts.items():
            told[key] = value
            told[key].attrs["type"] = {str: "string", bool: "bool"}.get(type(value), "number")
        targets = told.create_group("_target_paths")
        targets.attrs.update({"type": "list_of_strings", "length": 1})
        targets["0"] = "/datacube"


def _emd_group(file: Any, name: str, kind: str, python_class: str) -> Any:
    group = file.create_group(name)
    group.attrs["emd_group_type"] = kind
    if python_class:
        group.attrs["python_class"] = python_class
    return group


def _raster(record: Record) -> tuple[int, int, float, bool, float]:
    """Rows, columns, the step [px], and flip and rotation [degrees] as py4DSTEM tells them: a gradient on the detector
    is R(θ)·P times it on the raster, with P a swap of the axes."""
    places = record.positions
    steps = np.diff(places, axis=0)
    turns = np.flatnonzero(np.linalg.norm(steps - steps[:1], axis=1) > RASTER_PX)
    fast = int(turns[0]) + 1 if len(turns) else len(places)
    slow = len(places) // fast
    if slow > 1 and fast > 1 and slow * fast == len(places):
        row, column = np.divmod(np.arange(len(places)), fast)
        model = np.stack([np.ones(len(places)), row, column], axis=1)
        found, *_ = np.linalg.lstsq(model, places, rcond=None)
        along, lengths = found[1:], np.linalg.norm(found[1:], axis=1)
        is_square = abs(lengths[0] - lengths[1]) < RASTER_PX and abs(along[0] @ along[1]) < RASTER_PX * lengths[0]
        if is_square and np.abs(model @ found - places).max() < RASTER_PX:
            turn = along / lengths[:, None]  # rows: slow, fast; = R(θ)·P
            flip = bool(np.linalg.det(turn) < 0)
            cos, sin = (turn @ np.eye(2)[::-1] if flip else turn)[:, 0]
            return slow, fast, float(lengths.mean()), flip, float(np.degrees(np.arctan2(sin, cos)))
    raise DataError(
        f"{record.scan.source}: its {len(places)} positions are no raster of equal steps, and .emd holds nothing else: "
        "write .npz, .cxi or .ptyd"
    )


def write_npz(path: Path, scan: Scan, result: Reconstruction | None = None) -> None:
    """Our own scan NPZ, on the scan's grid: also for the near field, and where no length is known."""
    positions = scan.positions if result is None else result.among(scan.positions)
    arrays: dict[str, Any] = {
        "diff3d": scan.amplitude(slice(None)),
        "ycoords": positions[:, 0],
        "xcoords": positions[:, 1],
        "ycoords_start": scan.nominal_positions[:, 0],
        "xcoords_start": scan.nominal_positions[:, 1],
        "mask": scan.valid,
        "propagation": np.array(scan.propagation),
    }
    probe = scan.probe if result is None or result.probe is None else result.probe
    if not (scan.probe_is_guess and result is None):
        arrays["probeGuess"] = probe
    lengths = {
        "pixel_size_m": scan.pixel_size_m,
        "wavelength_m": scan.wavelength_m,
        "propagation_distance_m": scan.propagation_distance_m,
    }
    arrays |= {key: np.array(value) for key, value in lengths.items() if value is not None}
    if scan.obj is not None:
        arrays["objectGuess"] = scan.obj
    write_scan_npz(path, arrays)


WRITERS: dict[str, Callable[[Path, Record], None]] = {
    ".cxi": write_cxi,
    ".ptyd": write_ptyd,
    "_dp.hdf5": write_pair,
    "_dp.h5": write_pair,
    "_ptylab.hdf5": write_ptylab,
    ".emd": write_emd,
}
"""By the end of the name."""
WITHOUT: dict[str, tuple[str, ...]] = {
    ".ptyd": ("probe", "object"),
    "_dp.hdf5": ("mask",),
    "_dp.h5": ("mask",),
    "_ptylab.hdf5": ("mask", "object"),
    ".emd": ("mask", "probe", "object"),
}
"""What these formats have no place for."""


def left_out(path: Path, scan: Scan, result: Reconstruction | None = None) -> tuple[str, ...]:
    """What of a scan or its reconstruction the format of this name has no place for."""
    there = {
        "mask": not scan.valid.all(),
        "probe": not scan.probe_is_guess or result is not None,
        "object": scan.obj is not None or result is not None,
    }
    lost = next((parts for ending, parts in WITHOUT.items() if path.name.endswith(ending)), ())
    return tuple(part for part in lost if there[part])


def write_scan(path: Path, scan: Scan, result: Reconstruction | None = None) -> str:
    """Write a scan, with its reconstruction where one is given, in the format that the name ends with; what it is.

    `.npz` ours, `.cxi`, `.ptyd`, `_dp.hdf5` (with `_para.hdf5`), `_ptylab.hdf5`, `.emd`, or a folder of ptychodus.
    Raises UsageError for another name, DataError where the format needs what is not known.
    """
    if path.suffix == ".npz":
        write_npz(path, scan, result)
        return "scan NPZ"
    for ending, write in WRITERS.items():
        if path.name.endswith(ending):
            write(path, Record.of(scan, result))
            return ending.lstrip(".")
    if path.suffix == "" or path.is_dir():
        write_ptychodus(path, Record.of(scan, result))
        return "folder of ptychodus"
    raise UsageError(
        f"{path}: no scan format is known for {path.suffix!r}; use .npz, .cxi, .ptyd, .emd, NAME_dp.hdf5, "
        "NAME_ptylab.hdf5, or a folder"
    )
