"""DECTRIS: a master file that links to files of frames; positions in a table beside."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.data.frames import FrameStack
from ptycho_torch.errors import DataError
from ptycho_torch.units import ENERGIES, LENGTHS

NAME = "DECTRIS master file"
DECLARES = Declaration(domain="counts", columns="yx", sign=1, unit="m", mask="1 bad", orientation="not told")
DETECTOR = "entry/instrument/detector"
PART = re.compile(r"data_\d+")


def sniff(path: Path) -> bool:
    """By the group of the detector's own settings."""
    return path.is_file() and hdf5.holds(path, "entry/data", f"{DETECTOR}/detectorSpecific")


def companions(path: Path) -> list[Path]:
    """The master; its links name the others."""
    return [path]


def read(path: Path) -> Source:
    """The frames of all linked files, in their order, and what the detector knows of itself."""
    with hdf5.opened(path) as file:
        group = file["entry/data"]
        names = sorted(name for name in group if PART.fullmatch(name)) or (["data"] if "data" in group else [])
        if not names:
            raise DataError(f"{path} ({NAME}): entry/data links to no frames: copy its files of data beside it")
        y, x = (hdf5.number(file, f"{DETECTOR}/{axis}_pixel_size", units=LENGTHS) for axis in "yx")
        centre = [hdf5.number(file, f"{DETECTOR}/beam_center_{axis}") for axis in "yx"]
        energy = hdf5.number(file, f"{DETECTOR}/detectorSpecific/photon_energy", units=ENERGIES)
        wavelength = hdf5.number(file, "entry/instrument/beam/incident_wavelength", units={"A": 1e-10, **LENGTHS})
        mask = hdf5.first(file, f"{DETECTOR}/pixel_mask", f"{DETECTOR}/detectorSpecific/pixel_mask")
        source = Source(
            path,
            NAME,
            DECLARES,
            photon_energy_ev=hdf5.positive(energy),
            wavelength_m=hdf5.positive(wavelength),
            distance_m=hdf5.positive(hdf5.number(file, f"{DETECTOR}/detector_distance", units=LENGTHS)),
            detector_pixel_m=(y, x) if y and x else None,
            beam_centre=(centre[0], centre[1]) if centre[0] and centre[1] else None,
            mask=None if mask is None else hdf5.array(file, mask) != 0,
        )
        return source.having(frames=_frames(path, [f"entry/data/{name}" for name in names]))


def _frames(path: Path, keys: list[str]) -> FrameStack:
    with hdf5.opened(path) as file:
        found = [hdf5.dataset(file, key) for key in keys]
        if all(np.prod(part.shape) == 0 for part in found):
            raise DataError(f"{path} ({NAME}): its files hold no frame: copy the files of data beside it")
        return hdf5.frames(file, *keys)
