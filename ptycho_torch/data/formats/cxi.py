"""CXI 1.6, as cdtools, ptychodus and others write it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.beside import partner
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError
from ptycho_torch.units import ENERGIES

NAME = "CXI"
DECLARES = Declaration(domain="counts", columns="xy", sign=-1, unit="m", mask="1 bad")
"""`translation` is how the sample was moved. ptychodus writes the probe's place there instead."""
FRAMES = ("entry_1/data_1/data", "entry_1/instrument_1/detector_1/data", "entry_1/data/data")
PLACES = (
    "entry_1/data_1/translation",
    "entry_1/instrument_1/detector_1/translation",
    "entry_1/sample_1/geometry_1/translation",
)
HAS_SIGNAL = 0x1000
"""A bit of the mask that says nothing bad."""


def sniff(path: Path) -> bool:
    """Whether it has the groups of CXI, and is no NeXus file."""
    if not path.is_file() or not hdf5.holds(path, "entry_1"):
        return False
    with hdf5.opened(path) as file:
        is_nexus = hdf5.text(file, "entry_1/definition") == "NXcxi_ptycho"
        return not is_nexus and hdf5.first(file, "cxi_version", *FRAMES, *PLACES, "entry_1/image_1/data") is not None


def companions(path: Path) -> list[Path]:
    """The file, and that with the positions or the patterns where ptychodus wrote two."""
    has_frames, has_places = _has(path, FRAMES), _has(path, PLACES)
    if has_frames and has_places:
        return [path]
    swaps = (("diffraction", "product"), ("product", "diffraction"))
    wanted, what = (PLACES, "its positions") if has_frames else (FRAMES, "its patterns")

    def fits(other: Path) -> bool:
        return sniff(other) and _has(other, wanted) and not _has(other, FRAMES if has_frames else PLACES)

    other = partner(path, fits, swaps=swaps, what=what)
    return [path] if other is None else [path, other]


def read(path: Path) -> Source:
    """The source in one file, or in the two of ptychodus."""
    source = Source(path, NAME, DECLARES)
    for part in companions(path):
        with hdf5.opened(part) as file:
            found = _parts(file)
        if found.get("frames") is not None:
            source = replace(source, path=part)
        source = source.having(**{name: value for name, value in found.items() if name != "is_ptychodus"})
        if found["is_ptychodus"] and source.basis is None:
            source = replace(source, form="CXI of ptychodus", declares=replace(DECLARES, sign=1))
    if source.frames is None:
        raise DataError(f"{path} (CXI): it holds no patterns: copy the file that holds them beside it")
    if source.positions is None:
        raise DataError(f"{path} (CXI): it holds no translation: copy the file that holds it beside it")
    return source


def _has(path: Path, keys: tuple[str, ...]) -> bool:
    with hdf5.opened(path) as file:
        return hdf5.first(file, *keys) is not None


def _parts(file: h5py.File) -> dict[str, Any]:
    detector, mine = "entry_1/instrument_1/detector_1", "entry_1/ptychodus"
    frames, places = hdf5.first(file, *FRAMES), hdf5.first(file, *PLACES)
    program = hdf5.text(file, "entry_1/process_1/program") + hdf5.text(file, "entry_1/program_name")
    positions = None if places is None else hdf5.array(file, places)
    if positions is not None and (positions.ndim != 2 or positions.shape[1] not in (2, 3)):
        raise DataError(f"{file.filename}: {places} has shape {positions.shape}, (n, 3) is needed")
    y, x = (hdf5.number(file, f"{detector}/{axis}_pixel_size") for axis in "yx")
    joule = hdf5.number(file, "entry_1/instrument_1/source_1/energy")
    basis = f"{detector}/basis_vectors"
    mask = hdf5.array(file, f"{detector}/mask") if hdf5.has(file, f"{detector}/mask") else None
    pixel = [hdf5.number(file, f"{mine}/object_pixel_{side}_m") for side in ("height", "width")]
    centre = [hdf5.number(file, f"{mine}/object_center_{axis}_m") for axis in "yx"]
    return {
        "is_ptychodus": "ptychodus" in program.lower() or hdf5.has(file, mine),
        "frames": None if frames is None else hdf5.frames(file, frames),
        "positions": positions,
        "position_indexes": _maybe(file, f"{mine}/probe_position_indexes"),
        "basis": hdf5.array(file, basis) if positions is not None and hdf5.has(file, basis) else None,
        "photon_energy_ev": None if not joule else joule * ENERGIES["J"],
        "wavelength_m": hdf5.positive(hdf5.number(file, "entry_1/instrument_1/source_1/wavelength")),
        "distance_m": hdf5.positive(hdf5.number(file, f"{detector}/distance")),
        "detector_pixel_m": (y, x) if y and x else None,
        "object_pixel_m": tuple(pixel) if all(pixel) else None,
        "mask": mask if mask is None or mask.dtype.kind not in "ui" else mask.astype(np.int64) & ~HAS_SIGNAL,
        "probe": _probe(file),
        "probe_origin": "illumination in the file",
        "obj": hdf5.one_layer(_maybe(file, "entry_1/image_2/data")),
        "obj_centre_m": tuple(centre) if None not in centre else None,
    }


def _probe(file: h5py.File) -> np.ndarray | None:
    keys: tuple[str, ...] = (
        "entry_1/instrument_1/source_1/illumination",
        "entry_1/instrument_1/detector_1/Illumination",
    )
    if hdf5.has(file, "entry_1/ptychodus"):
        keys = ("entry_1/image_1/data", *keys)
    found = hdf5.first(file, *keys)
    probe = None if found is None else hdf5.array(file, found, most_bytes=hdf5.LARGEST_PARTS)
    return probe


def _maybe(file: h5py.File, key: str) -> np.ndarray | None:
    return hdf5.array(file, key, most_bytes=hdf5.LARGEST_PARTS) if hdf5.has(file, key) else None
