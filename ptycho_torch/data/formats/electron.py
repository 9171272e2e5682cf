"""4D-STEM: a raster of patterns, as HyperSpy and py4DSTEM store it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.units import INVERSE_LENGTHS, LENGTHS, unit_of

NAME = "4D-STEM"
DECLARES = Declaration(domain="counts", columns="yx", sign=1, unit="m", mask="1 bad", orientation="not told")


def _experiment(file: h5py.File) -> str | None:
    """The first 4-D signal of HyperSpy."""
    if not hdf5.has(file, "Experiments"):
        return None
    for name in list(file["Experiments"])[:16]:
        key = f"Experiments/{name}"
        if hdf5.has(file, f"{key}/data") and file[f"{key}/data"].ndim == 4:
            return key
    return None


def _cube(file: h5py.File) -> str | None:
    """The first 4-D array of an EMD file of py4DSTEM."""
    for root in list(file)[:16]:
        group = file.get(root)
        if not isinstance(group, h5py.Group):
            continue
        for name in list(group)[:32]:
            key = f"{root}/{name}"
            if hdf5.has(file, f"{key}/data") and hdf5.has(file, f"{key}/dim0") and file[f"{key}/data"].ndim == 4:
                return key
    return None


def sniff(path: Path) -> bool:
    """Whether there is a 4-D array with its axes."""
    if not path.is_file() or not hdf5.is_hdf5(path):
        return False
    with hdf5.opened(path) as file:
        return _experiment(file) is not None or _cube(file) is not None


def companions(path: Path) -> list[Path]:
    """All is in one file."""
    return [path]


def read(path: Path) -> Source:
    """The source in the first 4-D array; frames are `[Qx, Qy]` and positions `[Rx, Ry]`, rows first."""
    with hdf5.opened(path) as file:
        key = _experiment(file)
        told = _of_hyperspy(file, key) if key is not None else _of_py4dstem(file, _cube(file) or "")
        key = key or _cube(file) or ""
        slow, fast = file[f"{key}/data"].shape[:2]
        return Source(
            path,
            NAME,
            DECLARES,
            frames=hdf5.frames(file, f"{key}/data"),
            raster=(int(slow), int(fast)),
        ).having(**told)


def _of_hyperspy(file: h5py.File, key: str) -> dict[str, Any]:
    axes = [file[f"{key}/axis-{k}"].attrs if hdf5.has(file, f"{key}/axis-{k}") else {} for k in range(4)]

    def scale(axis: Any, units: dict[str, float]) -> float | None:
        factor = unit_of(hdf5.text_of(axis.get("units", "")), units)
        value = axis.get("scale")
        return None if factor is None or value is None or not float(value) > 0 else float(value) * factor

    steps, sides = [scale(axis, LENGTHS) for axis in axes[:2]], [scale(axis, INVERSE_LENGTHS) for axis in axes[2:]]
    tem = f"{key}/metadata/Acquisition_instrument/TEM"
    energy = hdf5.attribute(file[tem], "beam_energy") if hdf5.has(file, tem) else None
    return {
        "form": "HyperSpy",
        "step_m": (steps[0], steps[1]) if all(steps) else None,
        "diffraction_step": sides[0],
        "electron_voltage": None if energy is None or energy <= 0 else energy * 1e3,
    }


def _of_py4dstem(file: h5py.File, key: str) -> dict[str, Any]:
    root = key.split("/")[0]
    told = f"{root}/metadatabundle/calibration"
    step = _calibrated(file, told, "R_pixel_size", "R_pixel_units", LENGTHS)
    side = _calibrated(file, told, "Q_pixel_size", "Q_pixel_units", INVERSE_LENGTHS)
    if step is None and (dim := _spacing(file, f"{key}/dim0", LENGTHS)):
        step = dim
    if side is None:
        side = _spacing(file, f"{key}/dim2", INVERSE_LENGTHS)
    turn = hdf5.number(file, f"{told}/QR_rotation_degrees") or 0.0
    voltage = hdf5.positive(hdf5.number(file, f"{told}/accelerating_voltage"))
    is_flipped = bool(hdf5.number(file, f"{told}/QR_flip"))
    note = f"the positions are turned by {turn:g}°" + (", after a swap of their axes" * is_flipped) + ", as QR tells"
    return {
        "form": "py4DSTEM",
        "step_m": None if step is None else (step, step),
        "diffraction_step": side,
        "electron_voltage": voltage,
        "grid_turned": (is_flipped, -turn if is_flipped else turn),
        "notes": (note,) if turn or is_flipped else None,
    }


def _calibrated(file: h5py.File, told: str, size: str, units: str, known: dict[str, float]) -> float | None:
    value, factor = hdf5.number(file, f"{told}/{size}"), unit_of(hdf5.text(file, f"{told}/{units}"), known)
    return None if value is None or factor is None or not value > 0 else value * factor


def _spacing(file: h5py.File, key: str, known: dict[str, float]) -> float | None:
    """The step of an axis of an EMD array, from its first two values."""
    if not hdf5.has(file, key):
        return None
    values = hdf5.array(file, key).ravel()
    factor = unit_of(hdf5.text_of(file[key].attrs.get("units", "")), known)
    step = float(np.diff(values[:2])[0]) if len(values) > 1 else 0.0
    return step * factor if factor is not None and step > 0 else None
