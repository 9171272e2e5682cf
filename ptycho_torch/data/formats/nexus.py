"""NeXus NXcxi_ptycho: every length has its unit, and the energy of the source is that of the storage ring."""

from __future__ import annotations

from pathlib import Path

import h5py

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError
from ptycho_torch.units import ENERGIES, LENGTHS

NAME = "NeXus NXcxi_ptycho"
DECLARES = Declaration(domain="counts", columns="xy", sign=-1, unit="m", mask="1 bad")


def _entry(path: Path) -> str | None:
    if not path.is_file() or not hdf5.is_hdf5(path):
        return None
    with hdf5.opened(path) as file:
        for name in list(file)[:16]:
            if hdf5.text(file, f"{name}/definition") == "NXcxi_ptycho":
                return name
    return None


def sniff(path: Path) -> bool:
    """Whether one of its entries says so."""
    return _entry(path) is not None


def companions(path: Path) -> list[Path]:
    """All is in one file."""
    return [path]


def read(path: Path) -> Source:
    """The source in the first entry of this definition."""
    entry = _entry(path)
    assert entry is not None
    detector, beam = f"{entry}/instrument_1/detector_1", f"{entry}/instrument_1/beam_1"
    with hdf5.opened(path) as file:
        frames = hdf5.first(file, f"{entry}/data_1/data", f"{detector}/data")
        places = hdf5.first(
            file, f"{detector}/translation", f"{entry}/data_1/translation", f"{entry}/sample_1/geometry_1/translation"
        )
        if frames is None or places is None:
            raise DataError(
                f"{path} ({NAME}): it holds no {'data' if frames is None else 'translation'}: both are needed"
            )
        energy = hdf5.first(file, f"{beam}/incident_beam_energy", f"{beam}/incident_energy", f"{beam}/energy")
        wavelength = hdf5.first(file, f"{beam}/incident_wavelength", f"{beam}/wavelength")
        y, x = (hdf5.positive(hdf5.number(file, f"{detector}/{axis}_pixel_size", units=LENGTHS)) for axis in "yx")
        return Source(
            path,
            NAME,
            DECLARES,
            frames=hdf5.frames(file, frames),
            positions=hdf5.array(file, places) * hdf5.unit(file[places], LENGTHS),
            photon_energy_ev=None if energy is None else hdf5.positive(hdf5.number(file, energy, units=ENERGIES)),
            wavelength_m=None if wavelength is None else hdf5.positive(hdf5.number(file, wavelength, units=LENGTHS)),
            distance_m=hdf5.positive(hdf5.number(file, f"{detector}/distance", units=LENGTHS)),
            detector_pixel_m=(y, x) if y and x else None,
            beam_centre=_centre(file, detector, y, x),
            mask=next(
                (
                    hdf5.array(file, f"{detector}/{k}")
                    for k in ("mask", "pixel_mask")
                    if hdf5.has(file, f"{detector}/{k}")
                ),
                None,
            ),
        )


def _centre(file: h5py.File, detector: str, y: float | None, x: float | None) -> tuple[float, float] | None:
    """The beam's pixel (y, x), stated in pixels or as a length."""
    found = list[float]()
    for axis, side in (("y", y), ("x", x)):
        key = f"{detector}/beam_center_{axis}"
        value = hdf5.number(file, key)
        if value is None:
            return None
        word = hdf5.text_of(file[key].attrs.get("units", "pixel"))
        if word.lower() not in ("pixel", "pixels", "px", ""):
            if not side:
                return None
            value *= hdf5.unit(file[key], LENGTHS) / side
        found.append(value)
    return found[0], found[1]
