"""fold_slice and PtychoShelves results, `.mat` of version 5 or 7.3: positions, probe and object of a scan.

They hold no patterns: those are in a file with `dp` beside it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.beside import partner
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError, one_line

NAME = "fold_slice result"
DECLARES = Declaration(domain="counts", columns="xy", sign=1, unit="px", mask="1 bad")
"""A position is the first pixel of the probe's window, once ⌈No/2 − Np/2⌉ − 1 is added (Matlab counts from 1)."""
LARGEST = 2**32


def _is_v5(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(10) == b"MATLAB 5.0"


def sniff(path: Path) -> bool:
    """By the header of version 5, or by the keys of 7.3."""
    if not path.is_file():
        return False
    return _is_v5(path) or hdf5.holds(path, "outputs", "probe", "object")


def companions(path: Path) -> list[Path]:
    """The patterns, where a file beside holds them, and the result."""
    data = partner(path, lambda other: hdf5.holds(other, "dp"), swaps=(), what="its patterns")
    return [path] if data is None else [data, path]


def read(path: Path) -> Source:
    """The source of the result and of the patterns beside it."""
    told = _version_5(path) if _is_v5(path) else _version_73(path)
    missing = [key for key in ("object", "probe", "positions") if told.get(key) is None]
    if missing:
        raise DataError(f"{path} (Matlab): no {', '.join(missing)} in it: a result of fold_slice is needed")
    obj, probe, positions = told["object"], told["probe"], np.asarray(told["positions"], np.float64)
    probe = probe[..., 0] if probe.ndim == 4 else probe
    modes = np.moveaxis(np.atleast_3d(probe), -1, 0)
    height, width = obj.shape[:2]
    n = modes.shape[-1]
    start = np.array([math.ceil(width / 2 - n / 2), math.ceil(height / 2 - n / 2)]) - 1.0  # x, y
    spec = np.atleast_1d(told["dx_spec"]).ravel() if told.get("dx_spec") is not None else np.zeros(0)
    data = companions(path)[0]
    source = Source(
        path,
        NAME,
        replace(DECLARES, index=float(n // 2)),
        positions=positions + start,
        object_pixel_m=(float(spec[0]), float(spec[-1])) if spec.size in (1, 2) and (spec > 0).all() else None,
        wavelength_m=hdf5.positive(told.get("lambda")),
        probe=modes,
        probe_origin=f"probe in {path.name}",
        obj=hdf5.one_layer(np.squeeze(obj)),
    )
    if data == path:
        return source
    with hdf5.opened(data) as file:
        return replace(source, path=data, frames=hdf5.frames(file, "dp"))


def _version_5(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        held = loadmat(path, simplify_cells=True, variable_names=("object", "probe", "outputs", "p"))
    except (MatReadError, ValueError, TypeError, OSError, EOFError, NotImplementedError, MemoryError) as error:
        raise DataError(f"{path}: it is cut short or damaged ({one_line(error)}): copy it again") from None
    p = held.get("p") if isinstance(held.get("p"), dict) else {}
    outputs = held.get("outputs") if isinstance(held.get("outputs"), dict) else {}
    wavelength = p.get("lambda")
    return {
        "object": held.get("object"),
        "probe": held.get("probe"),
        "positions": outputs.get("probe_positions"),
        "dx_spec": p.get("dx_spec"),
        "lambda": float(wavelength) if isinstance(wavelength, int | float) else None,
    }


def _version_73(path: Path) -> dict[str, Any]:
    """The same of HDF5, in which Matlab's axes stand in reverse order."""
    with hdf5.opened(path) as file:

        def transposed(key: str) -> np.ndarray | None:
            return hdf5.array(file, key, most_bytes=LARGEST).T if hdf5.has(file, key) else None

        return {
            "object": transposed("object"),
            "probe": transposed("probe"),
            "positions": transposed("outputs/probe_positions"),
            "dx_spec": transposed("p/dx_spec"),
            "lambda": hdf5.number(file, "p/lambda"),
        }
