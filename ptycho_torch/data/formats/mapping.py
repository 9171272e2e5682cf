"""Any HDF5, by a mapping: which dataset is what, in a TOML file or in words.

file = "scan.h5"                     # where the datasets are; a key may name another file, "other.h5:entry/data"
diffraction = "entry/data/data"
positions_x = "entry/x"              # or positions = "entry/xy", [n, 2] or [2, n], with columns = ["y", "x"]
positions_y = "entry/y"
unit = "um"
energy_eV = 8000                     # a number, or the key of one
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ptycho_torch.data.formats import hdf5
from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.errors import DataError, one_line
from ptycho_torch.types import Domain
from ptycho_torch.units import LENGTHS, POSITION_UNITS, unit_of

NAME = "HDF5 by a mapping"
DECLARES = Declaration(domain=None, columns="yx", sign=1, unit="m", mask="1 bad", orientation="not told")
ARRAYS = ("diffraction", "positions", "positions_x", "positions_y", "indexes", "mask", "good_pixels", "probe")
NUMBERS = {
    "energy_eV": "photon_energy_ev",
    "electron_voltage_V": "electron_voltage",
    "wavelength_m": "wavelength_m",
    "distance_m": "distance_m",
    "detector_pixel_m": "detector_pixel_m",
    "object_pixel_m": "object_pixel_m",
}
WORDS = ("file", "unit", "columns", "sign", "domain", "transposed", "beam_centre")
KNOWN = (*ARRAYS, *NUMBERS, *WORDS)
PAIRS = ("detector_pixel_m", "object_pixel_m")
LARGEST_MAP = 2**20


def sniff(path: Path) -> bool:
    """Whether it is a TOML file that names the patterns."""
    if not path.is_file() or path.stat().st_size > LARGEST_MAP or path.suffix.lower() != ".toml":
        return False
    return b"diffraction" in path.read_bytes()


def companions(path: Path) -> list[Path]:
    """The mapping; it names the files."""
    return [path]


def read(path: Path) -> Source:
    """The source that a TOML file describes."""
    told = mapping_in(path)
    if not isinstance(told.get("file"), str):
        raise DataError(f'{path}: no file in it: add file = "scan.h5", where the datasets are')
    return mapped(path.parent / told["file"], told, where=str(path))


def mapping_in(path: Path) -> dict[str, Any]:
    """What a TOML file says."""
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: it is no TOML ({one_line(error)})") from None


def mapping_of(text: str) -> dict[str, Any]:
    """What `--map` says: the name of a TOML file, or words like diffraction=entry/data/data unit=um."""
    if "=" not in text:
        return mapping_in(Path(text))
    found: dict[str, Any] = {}
    for word in text.replace(",", " ").split():
        key, is_pair, value = word.partition("=")
        if not is_pair or not value:
            raise DataError(f"--map: {word!r} is no key=value, as diffraction=entry/data/data")
        found[key] = value
    return found


def mapped(path: Path, told: dict[str, Any], *, where: str = "--map") -> Source:
    """The source in an HDF5 file, its datasets named by the mapping. Raises DataError for what is not there."""
    unknown = [key for key in told if key not in KNOWN]
    if unknown:
        raise DataError(f"{where}: {', '.join(unknown)} means nothing here; known are {', '.join(KNOWN)}")
    if "diffraction" not in told:
        raise DataError(f"{where}: no diffraction in it: name the dataset of the patterns")
    if not path.is_file():
        raise DataError(f"{where}: {path} is not there: correct `file`")
    frames_path, key = _place(path, told["diffraction"])
    with hdf5.opened(frames_path) as file:
        source = Source(path, NAME, _declared(told, where), frames=hdf5.frames(file, key))
    good, bad = _array(path, told, "good_pixels"), _array(path, told, "mask")
    centre = told.get("beam_centre")
    return source.having(
        positions=_positions(path, told, where),
        position_indexes=_array(path, told, "indexes"),
        mask=bad if good is None else good == 0,
        probe=_array(path, told, "probe"),
        probe_origin="probe of the mapping",
        beam_centre=None if centre is None else (float(centre[0]), float(centre[1])),
        **_numbers(path, told, where),
    )


def _place(path: Path, value: Any) -> tuple[Path, str]:
    """The file and the key of a dataset."""
    name, is_other, key = str(value).rpartition(":")
    return (path.parent / name, key) if is_other else (path, key)


def _array(path: Path, told: dict[str, Any], key: str) -> np.ndarray | None:
    if key not in told:
        return None
    where, name = _place(path, told[key])
    with hdf5.opened(where) as file:
        return hdf5.array(file, name, most_bytes=hdf5.LARGEST_PARTS)


def _positions(path: Path, told: dict[str, Any], where: str) -> np.ndarray | None:
    """Positions `[n, 2]` (y, x), or as `columns` says."""
    both = _array(path, told, "positions")
    if both is not None:
        if both.ndim != 2 or (2 not in both.shape and 3 not in both.shape):
            raise DataError(f"{where}: positions have shape {both.shape}, (n, 2) or (2, n) is needed")
        return both if both.shape[1] in (2, 3) else both.T
    y, x = _array(path, told, "positions_y"), _array(path, told, "positions_x")
    if y is None and x is None:
        return None
    if y is None or x is None or y.size != x.size:
        raise DataError(f"{where}: positions_x and positions_y of as many values are needed")
    return np.stack([y.ravel(), x.ravel()], axis=1)


def _numbers(path: Path, told: dict[str, Any], where: str) -> dict[str, Any]:
    """Energy and lengths: numbers, or the keys of numbers."""
    found: dict[str, Any] = {}
    for key, name in NUMBERS.items():
        if key not in told:
            continue
        value = told[key]
        try:
            number: float | None = float(value)
        except (TypeError, ValueError):
            at, dataset = _place(path, value)
            with hdf5.opened(at) as file:
                number = hdf5.number(file, dataset)
        if number is None or not number > 0:
            raise DataError(f"{where}: {key} is {value!r}: a number more than 0, or the key of one, is needed")
        found[name] = (number, number) if name in PAIRS else number
    return found


def _declared(told: dict[str, Any], where: str) -> Declaration:
    columns = told.get("columns", ["y", "x"])
    order = "".join(columns) if isinstance(columns, list) else str(columns)
    if "positions_x" in told:
        order = "yx"
    unit = str(told.get("unit", "m"))
    if unit != "px":
        factor = unit_of(unit, LENGTHS)
        unit = next((name for name, metres in POSITION_UNITS.items() if metres == factor), "")
    sign = str(told.get("sign", 1)).lstrip("+")
    domain = told.get("domain")
    problems = {
        f"columns is {columns!r}, x and y in their order is needed": order not in ("yx", "xy"),
        f"unit is {told.get('unit')!r}, px or one of {', '.join(POSITION_UNITS)} is needed": not unit,
        f"sign is {sign}, 1 (the probe moves) or -1 (the sample does) is needed": sign not in ("1", "-1"),
        f"domain is {domain!r}, counts or amplitude is needed": domain not in (None, *get_args(Domain)),
    }
    for problem, is_there in problems.items():
        if is_there:
            raise DataError(f"{where}: {problem}")
    frames = "transposed" if str(told.get("transposed", "")).lower() in ("true", "1", "yes") else "as stored"
    fields: dict[str, Any] = {"columns": order, "unit": unit, "sign": int(sign), "domain": domain, "frames": frames}
    return replace(DECLARES, **fields)
