"""A stack of images, TIFF or NPY, or a folder of TIFFs; positions, probe, mask and lengths in files beside it.

`patterns.tif` with `positions.csv`, `bad_pixels.tif`, `probe.npy`, and a TOML file that says what no image tells:
`energy_eV`, `distance_m`, `detector_pixel_m`, `positions`, `columns`, `unit`.
"""

from __future__ import annotations

import struct
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.data.formats.beside import positions_in, table
from ptycho_torch.data.formats.images import IMAGES, stored
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.data.frames import FrameStack
from ptycho_torch.errors import DataError, one_line
from ptycho_torch.units import LENGTHS, POSITION_UNITS, unit_of

NAME = "stack of images"
DECLARES = Declaration(domain=None, columns="yx", sign=1, unit="m", mask="1 bad", orientation="not told")
STACKS = (*IMAGES, ".npy")
PAIRS = ("detector_pixel_m", "object_pixel_m", "step_m")
NUMBERS = {
    "energy_eV": "photon_energy_ev",
    "photon_energy_eV": "photon_energy_ev",
    "electron_voltage_V": "electron_voltage",
    "wavelength_m": "wavelength_m",
    "distance_m": "distance_m",
    "detector_pixel_m": "detector_pixel_m",
    "object_pixel_m": "object_pixel_m",
    "pixel_size_m": "object_pixel_m",
    "step_m": "step_m",
}


@dataclass(frozen=True)
class ArrayFrames:
    """Frames of an array that is mapped from its file."""

    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """n, H, W."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what is stored."""
        return self.array.dtype

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames start … stop − 1."""
        return np.asarray(self.array[start:stop])


@dataclass(frozen=True)
class TiffFrames:
    """The frames of one TIFF file, decoded as they are asked for."""

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames start … stop − 1."""
        import tifffile

        try:
            return tifffile.imread(self.path, key=range(start, stop)).reshape(stop - start, *self.shape[1:])
        except (OSError, ValueError, IndexError) as error:
            raise DataError(f"{self.path}: it is cut short or damaged ({one_line(error)})") from None


def sniff(path: Path) -> bool:
    """By the first bytes of the file, or by the files of the folder."""
    if path.is_dir():
        return any(file.suffix.lower() in STACKS for file in path.iterdir())
    with open(path, "rb") as file:
        start = file.read(8)
    return start[:6] == b"\x93NUMPY" or start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def companions(path: Path) -> list[Path]:
    """The stack, or the images of the folder."""
    if not path.is_dir():
        return [path]
    stacks = [f for f in sorted(path.iterdir()) if f.suffix.lower() in STACKS and not _is_part(f)]
    if len(stacks) > 1 and any(f.suffix.lower() == ".npy" for f in stacks):
        raise DataError(f"{path}: patterns may be in {', '.join(f.name for f in stacks[:4])}: give the file itself")
    return stacks


def read(path: Path) -> Source:
    """The source in the stack and in the files beside it."""
    files = companions(path)
    if not files:
        raise DataError(f"{path}: the folder holds no patterns, a stack of TIFF or NPY is needed")
    arrays = [_opened(file) for file in files]
    first = arrays[0]
    raster = None
    if first.ndim == 4 and len(arrays) == 1:
        raster = first.shape[:2]
        first = arrays[0] = first.reshape(-1, *first.shape[2:])
    if any(array.shape[1:] != first.shape[1:] or array.ndim != 3 for array in arrays):
        raise DataError(f"{path}: its images have different shapes: those of one scan need one shape")
    frames = FrameStack([a if isinstance(a, TiffFrames) else ArrayFrames(a) for a in arrays])
    folder = path if path.is_dir() else path.parent
    source = Source(files[0], NAME, DECLARES, frames=frames, raster=raster)
    source = source.having(**_images_beside(folder, frames.shape[1:], files))
    return _as_told(source, folder)


def _opened(file: Path) -> Any:
    if (
        file.suffix.lower() == ".npy" or file.read_bytes()[:6] == b"\x93NUMPY"
        if file.stat().st_size < 64
        else _is_npy(file)
    ):
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            pickled = "Object arrays" in str(error) or "allow_pickle" in str(error)
            what = "it holds pickled objects, which are never run" if pickled else "it is cut short or damaged"
            raise DataError(f"{file}: {what}: store numbers again") from None
        if array.dtype.kind not in "buif":
            raise DataError(f"{file}: it holds numbers of type {array.dtype}, real ones are needed")
        if array.ndim not in (3, 4):
            raise DataError(f"{file}: it has shape {array.shape}, (n, height, width) is needed")
        return array
    return _tiff(file)


def _is_npy(file: Path) -> bool:
    with open(file, "rb") as stream:
        return stream.read(6) == b"\x93NUMPY"


class _Tiff(TiffFrames):
    ndim = 3


def _tiff(file: Path) -> TiffFrames:
    import tifffile

    try:
        with tifffile.TiffFile(file) as opened:
            pages = len(opened.pages)
            page = opened.pages[0]
            shape, kind = page.shape, np.dtype(page.dtype)
    except (tifffile.TiffFileError, struct.error, ValueError, IndexError, OSError, TypeError) as error:
        raise DataError(f"{file}: it is cut short or damaged ({one_line(error)}): copy it again") from None
    if len(shape) != 2 or kind.kind not in "buif":
        raise DataError(f"{file}: its images have shape {shape} and type {kind}, (height, width) of numbers is needed")
    return _Tiff(file, (pages, int(shape[0]), int(shape[1])), kind)


def _is_part(file: Path) -> bool:
    stem = file.stem.lower()
    return any(
        word in stem for word in ("mask", "bad_pixel", "bad-pixel", "probe", "object", "position", "dark", "flat")
    )


def _images_beside(folder: Path, shape: tuple[int, ...], files: list[Path]) -> dict[str, Any]:
    """Mask, dark and flat field, and probe in files that are named so."""
    found: dict[str, Any] = {}
    notes = list[str]()
    for file in sorted(folder.iterdir())[:512]:
        if file in files or file.suffix.lower() not in STACKS or not file.is_file():
            continue
        stem = file.stem.lower()
        if ("mask" in stem or "bad" in stem) and "mask" not in found:
            image = np.squeeze(stored(file))
            if image.shape == shape:
                found["mask"] = (image == 0) if "good" in stem or "valid" in stem else (image != 0)
                notes.append(f"mask: {file.name}, {int(found['mask'].sum())} pixels are bad")
        elif (name := next((word for word in ("dark", "flat") if word in stem), None)) and name not in found:
            image = np.squeeze(stored(file))
            image = image.mean(axis=0) if image.ndim == 3 else image
            if image.shape == shape and image.dtype.kind in "buif":
                found[name] = image
                notes.append(f"{name} field: {file.name}")
        elif "probe" in stem and file.suffix.lower() == ".npy" and "probe" not in found:
            probe = stored(file)
            found |= {"probe": probe, "probe_origin": file.name}
    return found | ({"notes": tuple(notes)} if notes else {})


def _as_told(source: Source, folder: Path) -> Source:
    """What a TOML file beside the stack says."""
    tables = sorted(folder.glob("*.toml"))
    named = [file for file in tables if file.stem == source.path.stem]
    tables = named or tables
    if len(tables) != 1:
        return source
    try:
        told = tomllib.loads(tables[0].read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{tables[0]}: it is no TOML ({one_line(error)})") from None
    parts: dict[str, Any] = {}
    for key, name in NUMBERS.items():
        if key in told:
            value = told[key]
            if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
                raise DataError(f"{tables[0]}: {key} is {value!r}, a number more than 0 is needed")
            parts[name] = (
                (float(value),) * 2 if name in ("detector_pixel_m", "object_pixel_m", "step_m") else float(value)
            )
    if "positions" in told:
        source = _positions_told(source, folder / str(told["positions"]), told, tables[0])
    return source.having(**parts, notes=(*source.notes, f"energy and lengths: {tables[0].name}"))


def _positions_told(source: Source, file: Path, told: dict[str, Any], where: Path) -> Source:
    """The positions in the table that the TOML file names, with its `columns` and `unit`."""
    if not file.is_file():
        raise DataError(f"{where}: positions are in {file.name}, which is not there: copy it beside")
    places, unit, indexes, how = positions_in(file)
    columns = told.get("columns")
    if columns is not None:
        if sorted(map(str, columns)) != ["x", "y"]:
            raise DataError(f"{where}: columns is {columns!r}, x and y in their order is needed")
        places = table(file)[0][:, :2]
        how = f"columns {', '.join(columns)}"
    unit = str(told.get("unit", unit))
    unit = "px" if unit == "px" else next((k for k, v in POSITION_UNITS.items() if v == unit_of(unit, LENGTHS)), "")
    if not unit:
        raise DataError(f"{where}: unit is {told['unit']!r}: one of px, {', '.join(LENGTHS)} is needed")
    order: Any = "".join(columns) if columns is not None else "yx"
    declares = replace(source.declares, columns=order, unit=unit)
    notes = (*source.notes, f"positions: {file.name}, {how}")
    return source.having(declares=declares, positions=places, position_indexes=indexes, notes=notes)
