"""PtyRAD: measured patterns beside a `model_iterXXXX.hdf5`, whose positions, probe and object start the scan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.beside import halves, partner
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError

NAME = "PtyRAD"
DECLARES = Declaration(domain="counts", columns="yx", sign=1, unit="px", mask="1 bad")
"""Positions are the top left corners of the probe's window: pixel N//2 is N//2 further."""
MODEL = ("optimizable_tensors/probe", "model_attributes/crop_pos")


def _is_model(path: Path) -> bool:
    return hdf5.holds(path, *MODEL)


def _is_data(path: Path) -> bool:
    return hdf5.holds(path, "dp") and not _is_model(path)


def sniff(path: Path) -> bool:
    """Whether this is a model, or patterns beside one."""
    if path.is_file() and _is_model(path):
        return True
    is_part = path.is_dir() or _is_data(path)
    return is_part and partner(path, _is_model, swaps=(), what="the model") is not None


def _halves(path: Path) -> tuple[Path | None, Path | None]:
    return halves(path, _is_data, _is_model)


def companions(path: Path) -> list[Path]:
    """The file of the patterns, then the model."""
    return [file for file in _halves(path) if file is not None]


def read(path: Path) -> Source:
    """The source in the two files, from the name of either or of their folder."""
    data, model = _halves(path)
    assert model is not None
    if data is None:
        raise DataError(f"{path} (PtyRAD model): it holds no patterns: copy the file with `dp` beside it")
    with hdf5.opened(data) as file:
        source = Source(data, NAME, DECLARES, frames=hdf5.frames(file, "dp"))
    with hdf5.opened(model) as file:
        turned = [
            key
            for key in ("meas_flipT", "meas_permute", "meas_crop", "meas_pad", "meas_resample")
            if hdf5.has(file, f"params/init_params/{key}")
            and hdf5.text(file, f"params/init_params/{key}") not in ("__NONE__", "")
        ]
        if turned:
            raise DataError(f"{model} (PtyRAD): {', '.join(turned)} changed the patterns: store them as they were used")
        corners = hdf5.array(file, "model_attributes/crop_pos").astype(np.float64)
        key = "optimizable_tensors/probe_pos_shifts"
        corners = corners + hdf5.array(file, key) if hdf5.has(file, key) else corners
        probe = hdf5.array(file, "optimizable_tensors/probe", most_bytes=hdf5.LARGEST_PARTS)
        dx, kv = hdf5.number(file, "model_attributes/dx"), hdf5.number(file, "params/init_params/probe_kv")
        light = hdf5.text(file, "params/init_params/probe_illum_type") or "electron"
        amplitude, phase = (
            hdf5.one_layer(np.squeeze(hdf5.array(file, f"optimizable_tensors/obj{k}", most_bytes=hdf5.LARGEST_PARTS)))
            if hdf5.has(file, f"optimizable_tensors/obj{k}")
            else None
            for k in "ap"
        )
        return source.having(
            declares=replace(DECLARES, index=float(probe.shape[-1] // 2)),
            positions=corners,
            object_pixel_m=None if dx is None or dx <= 0 else (dx * 1e-10, dx * 1e-10),
            electron_voltage=None if kv is None or kv <= 0 or light != "electron" else kv * 1e3,
            probe=probe,
            probe_origin=f"probe in {model.name}",
            probe_unit="arbitrary",
            obj=None if amplitude is None or phase is None else amplitude * np.exp(1j * phase),
            notes=(f"positions and probe: {model.name}",),
        )
