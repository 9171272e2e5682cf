"""PtyLab HDF5: `ptychogram` and `encoder`."""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.data.axes import Orientation
from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError

NAME = "PtyLab"
DECLARES = Declaration(domain="counts", columns="yx", sign=1, unit="m", mask="1 bad")


def sniff(path: Path) -> bool:
    """By its two arrays."""
    return path.is_file() and hdf5.holds(path, "ptychogram", "encoder")


def companions(path: Path) -> list[Path]:
    """All is in one file."""
    return [path]


def read(path: Path) -> Source:
    """The source in the file."""
    with hdf5.opened(path) as file:
        told = hdf5.number(file, "orientation") or 0
        if told not in range(8):
            raise DataError(f"{path} ({NAME}): its orientation is {told:g}: 0 to 7 is needed, or --flip-detector")
        swap, flip = divmod(int(told), 4)
        side = hdf5.positive(hdf5.number(file, "dxd"))
        probe = hdf5.array(file, "probe", most_bytes=hdf5.LARGEST_PARTS) if hdf5.has(file, "probe") else None
        return Source(
            path,
            NAME,
            DECLARES,
            frames=hdf5.frames(file, "ptychogram"),
            positions=hdf5.array(file, "encoder"),
            frames_turned=Orientation(bool(swap), (flip in (2, 3), flip in (1, 3))) if told else None,
            notes=(f"the patterns are turned as its orientation, {told:g}, tells",) if told else (),
            wavelength_m=hdf5.positive(hdf5.number(file, "wavelength")),
            distance_m=hdf5.positive(hdf5.number(file, "zo")),
            detector_pixel_m=None if side is None else (side, side),
            probe=None if probe is None else probe.reshape(-1, *probe.shape[-2:]),
        )
