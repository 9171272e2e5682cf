"""NSLS-II HXN, as ptycho_gui stores it: roots of the counts, positions in µm."""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError

NAME = "NSLS-II HXN"
DECLARES = Declaration(domain="amplitude", columns="xy", sign=1, unit="um", mask="1 bad")


def sniff(path: Path) -> bool:
    """By its two arrays."""
    return path.is_file() and hdf5.holds(path, "diffamp", "points")


def companions(path: Path) -> list[Path]:
    """All is in one file."""
    return [path]


def read(path: Path) -> Source:
    """The source in the file."""
    with hdf5.opened(path) as file:
        points = hdf5.array(file, "points")
        if points.ndim != 2 or 2 not in points.shape:
            raise DataError(f"{path} ({NAME}): points has shape {points.shape}, (2, n) is needed")
        wavelength, side = (hdf5.positive(hdf5.number(file, key)) for key in ("lambda_nm", "ccd_pixel_um"))
        return Source(
            path,
            NAME,
            DECLARES,
            frames=hdf5.frames(file, "diffamp"),
            positions=points.T if len(points) == 2 else points,
            wavelength_m=None if wavelength is None else wavelength * 1e-9,
            distance_m=hdf5.positive(hdf5.number(file, "z_m")),
            detector_pixel_m=None if side is None else (side * 1e-6, side * 1e-6),
            probe=hdf5.array(file, "probe", most_bytes=hdf5.LARGEST_PARTS) if hdf5.has(file, "probe") else None,
        )
