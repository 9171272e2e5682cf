"""ptychodus 1.2 to 1.7: patterns in `diffraction.h5`, positions, probe and object in `product.h5`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.beside import halves
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError

NAME = "ptychodus"
DECLARES = Declaration(domain="counts", columns="yx", sign=1, unit="m", mask="1 bad")
PRODUCTS = ("product-in.h5", "product.h5")
"""Of several: the input of a batch, where it was kept beside its result."""


def _is_diffraction(path: Path) -> bool:
    return hdf5.holds(path, "patterns", "indexes") or (
        hdf5.holds(path, "patterns", "bad_pixels") and not hdf5.holds(path, "probe_position_x_px")
    )


def _is_product(path: Path) -> bool:
    return hdf5.holds(path, "probe_position_x_m", "probe_position_y_m", "probe", "probe_position_indexes")


def sniff(path: Path) -> bool:
    """Whether this is one of the two files, or a folder that holds both."""
    if path.is_dir():
        return any(_is_diffraction(file) for file in sorted(path.glob("*.h5"))[:64])
    return _is_diffraction(path) or _is_product(path)


def patterns_and_product(path: Path) -> tuple[Path | None, Path | None]:
    """The two files, from the name of either or of their folder; None for one that is not there."""
    swaps = (("diffraction", "product"), ("product", "diffraction"))
    return halves(path, _is_diffraction, _is_product, swaps=swaps, names=(("diffraction.h5",), PRODUCTS))


def companions(path: Path) -> list[Path]:
    """The two files that make a scan: patterns, then positions."""
    return [file for file in patterns_and_product(path) if file is not None]


def read(path: Path) -> Source:
    """The source in the two files, from the name of either or of their folder."""
    patterns, product = patterns_and_product(path)
    if patterns is None:
        raise DataError(f"{path} (ptychodus product): it holds no patterns: copy diffraction.h5 beside it")
    source = Source(patterns, NAME, DECLARES)
    with hdf5.opened(patterns) as file:
        source = source.having(
            frames=hdf5.frames(file, "patterns"),
            frame_indexes=hdf5.array(file, "indexes").ravel() if hdf5.has(file, "indexes") else None,
            mask=hdf5.array(file, "bad_pixels") if hdf5.has(file, "bad_pixels") else None,
            detector_pixel_m=hdf5.sides(file["patterns"], "detector_pixel_height_m", "detector_pixel_width_m"),
        )
    if product is None:
        raise source.lacks("it holds patterns only", "copy the product of this scan, product.h5, beside it")
    with hdf5.opened(product) as file:
        return source.having(**product_parts(file), notes=(*source.notes, f"positions and probe: {product.name}"))


def product_parts(file: h5py.File) -> dict[str, Any]:
    """What a product tells, as the fields of a source. Raises DataError for one of the near field."""
    if file.attrs.get("far_field", True) in (False, 0):
        raise DataError(f"{file.filename}: far_field is False: products of the near field can't be read")
    x, y = (hdf5.array(file, f"probe_position_{axis}_m").ravel() for axis in "xy")
    if len(x) != len(y):
        raise DataError(f"{file.filename}: {len(x)} x and {len(y)} y positions: as many of each are needed")
    obj = hdf5.array(file, "object", most_bytes=hdf5.LARGEST_PARTS) if hdf5.has(file, "object") else None
    probe = hdf5.array(file, "probe", most_bytes=hdf5.LARGEST_PARTS)
    node = file["object"] if obj is not None else file["probe"]
    return {
        "positions": np.stack([y, x], axis=1),
        "position_indexes": hdf5.array(file, "probe_position_indexes").ravel(),
        "photon_energy_ev": hdf5.positive(hdf5.attribute(file, "photon_energy_eV", "probe_energy_eV")),
        "distance_m": hdf5.positive(hdf5.attribute(file, "detector_object_distance_m")),
        "object_pixel_m": hdf5.sides(node, "pixel_height_m", "pixel_width_m"),
        "probe": probe,
        "probe_origin": "probe of the product",
        "obj": hdf5.one_layer(obj),
        "obj_centre_m": hdf5.centre(node),
    }
