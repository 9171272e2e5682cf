"""Single images beside a scan: masks, dark and flat fields, in NPY, TIFF, or HDF5 as FILE:KEY."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.errors import DataError, one_line

IMAGES = (".tif", ".tiff")


def stored(file: Path) -> np.ndarray:
    """The array in an NPY or TIFF file; DataError where it is damaged."""
    import tifffile

    try:
        return np.asarray(tifffile.imread(file) if file.suffix.lower() in IMAGES else np.load(file, allow_pickle=False))
    except (tifffile.TiffFileError, struct.error, ValueError, EOFError, OSError, IndexError, TypeError) as error:
        found = f"it is cut short or damaged ({one_line(error)})"
        raise DataError(f"{file}: {found}: copy it again, or take it away") from None


def image_in(path: Path, *, what: str) -> np.ndarray:
    """The image `[H, W]` in FILE or FILE:KEY; of several `[n, H, W]` the mean. Raises DataError that names `what`."""
    name, _, key = (str(path), "", "") if path.is_file() else str(path).rpartition(":")
    file = Path(name or path)
    if not file.is_file():
        raise DataError(f"--{what} {path}: there is no such file")
    if hdf5.is_hdf5(file):
        with hdf5.opened(file) as opened:
            if not key:
                raise DataError(f"--{what} {path}: it is HDF5, where the key of the image is needed: {path}:KEY")
            values = hdf5.array(opened, key)
    else:
        values = stored(file)
    if values.ndim == 3 and len(values):
        values = values.mean(axis=0)
    if values.dtype.kind in "buif" and not np.isfinite(values).any():
        raise DataError(f"--{what} {path}: it holds nothing but NaN, an image of numbers is needed")
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise DataError(f"--{what} {path}: shape {values.shape} of type {values.dtype}, an image of numbers is needed")
    return values
