"""`_dp.hdf5` with `_para.hdf5`: pty-chi's pair, and that of fold_slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.beside import halves, partner
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError

NAME = "dp/para pair"
DECLARES = Declaration(domain="counts", columns="yx", sign=1, unit="m", mask="1 bad")
SWAPS = (("_dp", "_para"), ("_para", "_dp"), ("dp", "para"), ("para", "dp"))


def _is_para(path: Path) -> bool:
    is_ptychodus = hdf5.holds(path, "probe_position_indexes")
    return hdf5.holds(path, "ppX", "ppY") or (
        hdf5.holds(path, "probe_position_x_m", "probe_position_y_m") and not is_ptychodus
    )


def _is_dp(path: Path) -> bool:
    return hdf5.holds(path, "dp")


def sniff(path: Path) -> bool:
    """Whether this is one of the two, known by keys, or a folder that holds both."""
    if path.is_dir():
        return partner(path, _is_dp, swaps=(), what="the patterns") is not None and (
            partner(path, _is_para, swaps=(), what="the positions") is not None
        )
    return _is_para(path) or (
        _is_dp(path) and (_is_para(path) or partner(path, _is_para, swaps=SWAPS, what="") is not None)
    )


def _halves(path: Path) -> tuple[Path | None, Path | None]:
    return halves(path, _is_dp, _is_para, swaps=SWAPS)


def companions(path: Path) -> list[Path]:
    """The file of the patterns, then that of the positions."""
    return [file for file in _halves(path) if file is not None]


def read(path: Path) -> Source:
    """The source in the two files, from the name of either."""
    dp, para = _halves(path)
    assert para is not None
    if dp is None:
        raise DataError(f"{path} ({NAME}): it holds no patterns: copy the file with `dp` beside it")
    with hdf5.opened(dp) as file:
        source = Source(dp, NAME, DECLARES, frames=hdf5.frames(file, "dp"))
    with hdf5.opened(para) as file:
        is_fold_slice = hdf5.has(file, "ppX")
        keys = ("ppY", "ppX") if is_fold_slice else ("probe_position_y_m", "probe_position_x_m")
        y, x = (hdf5.array(file, key).ravel() for key in keys)
        if len(x) != len(y):
            raise DataError(f"{para}: {len(x)} x and {len(y)} y positions: as many of each are needed")
        obj = hdf5.array(file, "object", most_bytes=hdf5.LARGEST_PARTS) if hdf5.has(file, "object") else None
        probe = hdf5.array(file, "probe", most_bytes=hdf5.LARGEST_PARTS) if hdf5.has(file, "probe") else None
        node = file["object"] if obj is not None else (file["probe"] if probe is not None else None)
        dx = hdf5.positive(hdf5.number(file, "dx"))
        pixel = (dx, dx) if dx else (None if node is None else hdf5.sides(node, "pixel_height_m", "pixel_width_m"))
        return source.having(
            form="dp/para pair of fold_slice" if is_fold_slice else "dp/para pair of pty-chi",
            positions=np.stack([y, x], axis=1),
            wavelength_m=hdf5.positive(hdf5.number(file, "lambda")),
            object_pixel_m=pixel,
            probe=probe,
            probe_origin=None if probe is None else f"probe in {para.name}",
            obj=hdf5.one_layer(obj),
            obj_centre_m=None if node is None else hdf5.centre(node),
            notes=(f"positions: {para.name}",),
        )
