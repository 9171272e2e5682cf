"""4D-STEM files of microscopes and cameras, read by RosettaSciIO (`pip install "ptycho-torch[electron]"`)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.data.formats.optics import electron_wavelength
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.data.frames import FrameStack
from ptycho_torch.errors import DataError, one_line
from ptycho_torch.units import ANGLES, INVERSE_LENGTHS, LENGTHS, unit_of

NAME = "microscope's 4D-STEM"
DECLARES = Declaration(domain="counts", columns="yx", sign=1, unit="m", mask="1 bad", orientation="not told")
PLUGINS = {
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".mib": "quantumdetector",
    ".blo": "blockfile",
    ".mrc": "mrc",
    ".tvips": "tvips",
    ".ser": "tia",
    ".emi": "tia",
    ".zspy": "zspy",
    ".app5": "topspin",
}
"""Of RosettaSciIO, by the end of the name: most of these formats have no mark of their own."""


@dataclass(frozen=True)
class LazyFrames:
    """The frames `[n, H, W]` of an array of NumPy or Dask, computed as they are asked for."""

    array: Any
    path: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """n, H, W."""
        return tuple(map(int, self.array.shape))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is stored."""
        return np.dtype(self.array.dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames start … stop − 1."""
        try:
            return np.asarray(self.array[start:stop])
        except Exception as error:  # whatever a plug-in of RosettaSciIO raises for a damaged file
            raise DataError(f"{self.path}: it is cut short or damaged ({one_line(error)}): copy it again") from None


def sniff(path: Path) -> bool:
    """By the end of the name."""
    return path.is_file() and path.suffix.lower() in PLUGINS


def companions(path: Path) -> list[Path]:
    """The file; RosettaSciIO finds what belongs to it."""
    return [path]


def read(path: Path) -> Source:
    """The source in the first signal of images. Raises DataError, in one line, without RosettaSciIO."""
    name = PLUGINS[path.suffix.lower()]
    try:
        plugin = import_module(f"rsciio.{name}")
    except ImportError:
        way = 'pip install "ptycho-torch[electron]"'
        raise DataError(
            f"{path}: {path.suffix} files are read by RosettaSciIO, which is not installed: {way}"
        ) from None
    try:
        signals = plugin.file_reader(str(path), lazy=True)
    except Exception as error:
        raise DataError(f"{path}: RosettaSciIO can't read it as {name} ({one_line(error)}): copy it again") from None
    signal = next((each for each in signals if each["data"].ndim in (3, 4)), None)
    if signal is None:
        shapes = ", ".join(str(each["data"].shape) for each in signals) or "nothing"
        raise DataError(f"{path}: it holds {shapes}: a stack of images or a raster of them is needed")
    data, axes = signal["data"], signal["axes"]
    if data.dtype.kind not in "buif":
        raise DataError(f"{path}: its images are of type {data.dtype}, real numbers are needed")
    steps = [_scale(axis, LENGTHS) for axis in axes[:-2]]
    tem = signal.get("metadata", {}).get("Acquisition_instrument", {}).get("TEM", {})
    energy = tem.get("beam_energy")
    voltage = float(energy) * 1e3 if isinstance(energy, int | float) and energy > 0 else None
    side, angle = _scale(axes[-1], INVERSE_LENGTHS), _scale(axes[-1], ANGLES)
    if side is None and angle is not None and voltage is not None:
        side = angle / electron_wavelength(voltage)
    return Source(
        path,
        f"{NAME}, {name}",
        DECLARES,
        frames=FrameStack([LazyFrames(data.reshape(-1, *data.shape[-2:]), path)]),
        raster=(int(data.shape[0]), int(data.shape[1])) if data.ndim == 4 else None,
        step_m=(steps[0], steps[1]) if len(steps) == 2 and steps[0] and steps[1] else None,
        diffraction_step=side,
        electron_voltage=voltage,
    )


def _scale(axis: dict[str, Any], units: dict[str, float]) -> float | None:
    """What a step along an axis is; None where its unit is another one."""
    factor = unit_of(str(axis.get("units") or ""), units)
    scale = axis.get("scale")
    return None if factor is None or scale is None or not float(scale) > 0 else float(scale) * factor
