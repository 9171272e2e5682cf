"""ptychodus' NPZ files: patterns in one, positions, probe and object in its product."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.beside import halves
from ptycho_torch.data.formats.npz import Members, opened
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError

NAME = "ptychodus NPZ"
DECLARES = Declaration(domain="counts", columns="yx", sign=1, unit="m", mask="1 bad")
SWAPS = (("diffraction", "product"), ("product", "diffraction"), ("patterns", "product"), ("product", "patterns"))


def _holds(path: Path, *keys: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return {f"{key}.npy" for key in keys} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _is_diffraction(path: Path) -> bool:
    return _holds(path, "patterns", "indexes")


def _is_product(path: Path) -> bool:
    return _holds(path, "probe_position_x_m", "probe_position_y_m", "probe")


def sniff(path: Path) -> bool:
    """Whether this is one of the two files, or a folder that holds both."""
    if path.is_dir():
        return any(_is_diffraction(file) for file in sorted(path.glob("*.npz"))[:64])
    return _is_diffraction(path) or _is_product(path)


def companions(path: Path) -> list[Path]:
    """The two files that make a scan: patterns, then positions."""
    return [file for file in halves(path, _is_diffraction, _is_product, swaps=SWAPS) if file is not None]


def read(path: Path) -> Source:
    """The source in the two files, from the name of either or of their folder."""
    patterns, product = halves(path, _is_diffraction, _is_product, swaps=SWAPS)
    if patterns is None:
        raise DataError(f"{path} ({NAME} product): it holds no patterns: copy them beside it")
    source = Source(patterns, NAME, DECLARES)
    with opened(patterns) as members:
        source = source.having(
            frames=members.patterns("patterns"),
            frame_indexes=members.array("indexes").ravel(),
            mask=members.array("bad_pixels") if "bad_pixels" in members.keys else None,
        )
    if product is None:
        raise source.lacks("it holds patterns only", "copy the product of this scan beside it")
    with opened(product) as members:
        return _with_product(source, members, product.name)


def _with_product(source: Source, members: Members, name: str) -> Source:
    def array(key: str) -> np.ndarray | None:
        return members.array(key, most_bytes=hdf5.LARGEST_PARTS) if key in members.keys else None

    def number(key: str) -> float | None:
        value = array(key)
        return float(value.ravel()[0]) if value is not None and value.size == 1 and value.dtype.kind in "iuf" else None

    far_field = array("far_field")
    if far_field is not None and not far_field.all():
        raise DataError(f"{members.path}: far_field is False: products of the near field can't be read")
    x, y = (np.asarray(array(f"probe_position_{axis}_m")).ravel() for axis in "xy")
    if len(x) != len(y):
        raise DataError(f"{members.path}: {len(x)} x and {len(y)} y positions: as many of each are needed")
    height, width = number("object_pixel_height_m"), number("object_pixel_width_m")
    centre_y, centre_x = number("object_center_y_m"), number("object_center_x_m")
    indexes = array("probe_position_indexes")
    obj = array("object")
    return source.having(
        positions=np.stack([y, x], axis=1).astype(np.float64),
        position_indexes=None if indexes is None else indexes.ravel(),
        photon_energy_ev=hdf5.positive(number("photon_energy_eV")),
        distance_m=hdf5.positive(number("detector_object_distance_m")),
        object_pixel_m=(height, width) if height and width else None,
        probe=array("probe"),
        probe_origin="probe of the product",
        obj=hdf5.one_layer(obj),
        obj_centre_m=None if obj is None or centre_y is None or centre_x is None else (centre_y, centre_x),
        notes=(*source.notes, f"positions and probe: {name}"),
    )
