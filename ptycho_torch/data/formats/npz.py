"""The scan NPZ: patterns in `diff3d`, positions in `xcoords` and `ycoords`, and optional keys."""

from __future__ import annotations

import io
import json
import math
import pickletools
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike

from ptycho_torch.data.formats.source import Declaration, Source
from ptycho_torch.data.patterns import mapped
from ptycho_torch.data.scan import PROBE_UNITS
from ptycho_torch.errors import DataError, one_line
from ptycho_torch.files import atomic_path
from ptycho_torch.types import Domain

NAME = "NPZ"
DECLARES = Declaration(domain=None, columns="yx", sign=1, unit="px", mask="1 good")
"""Positions are the object pixels that meet the probe's pixel N//2."""
HALF_A_PIXEL = 0.5
"""ptychodus 1.7 counts to the middle of the probe's window, (N − 1)/2: with its `bad_pixels`, and no mask of ours."""

PATTERN_KEYS = ("diff3d", "diffraction")
METADATA_BYTES = 2**20
SMALL_BYTES, LARGEST = 2**26, 16
"""Most of a text or a number, which may be stored once for each pattern; and of any other member, in sizes of the
patterns. The archive tells before a member is unpacked."""
DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    MemoryError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise on archives that are cut short, altered or encrypted, or that hold pickles."""

CONTRACT: dict[str, type[np.generic]] = {
    "diff3d": np.float32,
    "xcoords": np.float64,
    "ycoords": np.float64,
    "xcoords_start": np.float64,
    "ycoords_start": np.float64,
    "probeGuess": np.complex64,
    "probe_unit": np.str_,
    "objectGuess": np.complex64,
    "scan_index": np.int64,
    "mask": np.uint8,
    "nphotons": np.float64,
    "realised_photons": np.float64,
    "measurement_domain": np.str_,
    "propagation": np.str_,
    "propagation_distance_m": np.float64,
    "pixel_size_m": np.float64,
    "wavelength_m": np.float64,
    "seed": np.int64,
}
"""Keys and types as they are written; other keys go into the file as they are."""


def sniff(path: Path) -> bool:
    """Whether the file is named .npz or starts like a zip archive."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return path.suffix == ".npz" or file.read(4) == b"PK\x03\x04"


def companions(path: Path) -> list[Path]:
    """All is in one file."""
    return [path]


def read(path: Path) -> Source:
    """The source in an NPZ. Patterns keep their stored type; no pickle is executed.

    Raises DataError that names every problem in one line.
    """
    with opened(path) as members:
        return members.source()


@contextmanager
def opened(path: Path) -> Iterator[Members]:
    """The members of an archive; DataError where it is none."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        with open(path, "rb") as file:
            cut = file.read(2) == b"PK"
        what = "the archive is cut short or damaged: copy it again" if cut else "not an NPZ, a zip of arrays is needed"
        raise DataError(f"{path}: {what}") from None
    with archive:
        yield Members(path, archive)


def write_scan_npz(path: str | Path, arrays: Mapping[str, ArrayLike] | None = None, /, **more: ArrayLike) -> None:
    """Writes a scan NPZ from keys and arrays, whole or not at all; equal arrays give equal bytes.

    `diff3d` [n, N, N] is amplitude = √counts unless `measurement_domain` is counts; `xcoords` (column) and `ycoords`
    (row) [n] are object pixels; `probeGuess` [N, N] or [mode, N, N] is in √photons. What is left out of the start
    coordinates, mask, scan_index and domain is filled in. Raises DataError for arrays that are not a scan.
    """
    members = {key: np.asarray(value) for key, value in {**(arrays or {}), **more}.items()}
    missing = [key for key in ("diff3d", "xcoords", "ycoords") if key not in members]
    if missing:
        raise DataError(f"{path}: no {', '.join(missing)} to write, a scan file needs them")
    patterns, count = members["diff3d"], len(members["xcoords"])
    if patterns.ndim != 3 or not len(patterns) == count == len(members["ycoords"]):
        raise DataError(
            f"{path}: patterns {patterns.shape} with {count} x and {len(members['ycoords'])} y coordinates, "
            "(n, N, N) with n of each is needed"
        )
    defaults: dict[str, np.ndarray] = {
        "xcoords_start": members["xcoords"],
        "ycoords_start": members["ycoords"],
        "scan_index": np.zeros(count),
        "mask": np.ones(patterns.shape[1:]),
        "measurement_domain": np.array("amplitude"),
    }
    members = defaults | members
    typed = {key: members[key].astype(kind, copy=False) for key, kind in CONTRACT.items() if key in members}
    ordered: dict[str, Any] = typed | {key: value for key, value in members.items() if key not in CONTRACT}
    pickled = [key for key, value in ordered.items() if value.dtype.hasobject]
    if pickled:
        raise DataError(f"{path}: {', '.join(pickled)} would need a pickle, numbers or text are needed")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **ordered)


@dataclass
class Members:
    """An open archive, read one member at a time, and notes about it."""

    path: Path
    archive: zipfile.ZipFile
    notes: list[str] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        return [member.removesuffix(".npy") for member in self.archive.namelist() if member.endswith(".npy")]

    def source(self) -> Source:
        """What these members hold."""
        self._check_keys()
        positions = self._coordinates("ycoords", "xcoords")
        is_ptychodus = "bad_pixels" in self.keys and "mask" not in self.keys
        domain = self._declared_domain() if "measurement_domain" in self.keys else None
        pixel = self._positive("pixel_size_m", "obj_pixel_size_m")
        propagation = self._word("propagation") or "far"
        nominal = None
        if {"xcoords_start", "ycoords_start"} <= set(self.keys):
            nominal = self._coordinates("ycoords_start", "xcoords_start")
        if "scan_index" in self.keys and (scans := len(np.unique(self._numbers("scan_index")))) > 1:
            self.notes.append(f"scan_index names {scans} scans: they are taken as one scan of one object")
        patterns = _as_stack(self.patterns(next(key for key in PATTERN_KEYS if key in self.keys)), len(positions))
        return Source(
            self.path,
            NAME,
            replace(DECLARES, domain=domain, index=HALF_A_PIXEL if is_ptychodus else 0.0),
            frames=patterns,
            positions=positions,
            nominal_positions=nominal,
            mask=self._valid(),
            obj=self._object(),
            object_pixel_m=None if pixel is None else (pixel, pixel),
            wavelength_m=self._positive("wavelength_m"),
            propagation=propagation,  # type: ignore[arg-type]
            propagation_distance_m=self._positive("propagation_distance_m"),
            domain_reason="declared in the file" if domain else "",
            probe=self._numbers("probeGuess") if "probeGuess" in self.keys else None,
            probe_origin="probeGuess in the file",
            probe_unit=self._unit_of_the_probe(),
            nphotons=self._positive("nphotons") or self._photons_in_metadata(),
            notes=tuple(self.notes),
        )

    def _check_keys(self) -> None:
        missing = [key for key in ("xcoords", "ycoords") if key not in self.keys]
        if not set(PATTERN_KEYS) & set(self.keys):
            missing.insert(0, " or ".join(PATTERN_KEYS))
        if missing:
            there = ", ".join(self.keys) or "no arrays"
            raise DataError(f"{self.path}: no {', no '.join(missing)}: a scan needs them, the file holds {there}")

    def array(self, key: str, *, most_bytes: float = math.inf) -> np.ndarray:
        size = self.archive.getinfo(f"{key}.npy").file_size
        if size > most_bytes:
            found = f"{key} takes {size / 1e6:.3g} MB, at most {most_bytes / 1e6:.3g} MB can be right"
            raise DataError(f"{self.path}: {found}: store it again, or leave it out")
        try:
            with self.archive.open(f"{key}.npy") as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        except DAMAGED as error:
            raise self._damaged(key, error) from None

    def patterns(self, key: str) -> np.ndarray:
        """The patterns; those of a large, uncompressed file stay in it and are read a slice at a time."""
        try:
            stored = mapped(self.path, self.archive.getinfo(f"{key}.npy"))
        except DAMAGED as error:
            raise self._damaged(key, error) from None
        return self.array(key) if stored is None else stored

    def _pattern_bytes(self) -> int:
        """The size of the patterns, unpacked."""
        return self.archive.getinfo(f"{next(key for key in PATTERN_KEYS if key in self.keys)}.npy").file_size

    def _damaged(self, key: str, error: Exception) -> DataError:
        if "Object arrays" in str(error):
            return DataError(f"{self.path}: {key} is a pickled object, which is never run: store numbers")
        return DataError(f"{self.path}: {key} is cut short or damaged ({one_line(error)}): copy the file again")

    def _numbers(self, key: str) -> np.ndarray:
        values = self.array(key, most_bytes=max(SMALL_BYTES, LARGEST * self._pattern_bytes()))
        if values.dtype.kind not in "buifc":
            raise DataError(f"{self.path}: {key} is of type {values.dtype}, numbers are needed")
        return values

    def _coordinates(self, y_key: str, x_key: str) -> np.ndarray:
        y, x = (self._numbers(key).ravel() for key in (y_key, x_key))
        if len(y) != len(x):
            found = f"{x_key} holds {len(x)} values, {y_key} {len(y)}"
            raise DataError(f"{self.path}: {found}: as many of each are needed")
        return np.stack([y.real, x.real], axis=1).astype(np.float64)

    def _valid(self) -> np.ndarray | None:
        masks = [self._numbers("mask").real > 0.5] if "mask" in self.keys else []
        masks += [~(self._numbers("bad_pixels").real > 0.5)] if "bad_pixels" in self.keys else []
        masks = [np.squeeze(mask) for mask in masks]
        if len({mask.ndim for mask in masks}) > 1:
            masks = [mask if mask.ndim == 3 else mask[None] for mask in masks]
            masks = list(np.broadcast_arrays(*masks)) if _fit_together(masks) else masks
        if len({mask.shape for mask in masks}) > 1:
            shapes = " and ".join(str(mask.shape) for mask in masks)
            raise DataError(f"{self.path}: mask and bad_pixels have shapes {shapes}, both need that of one pattern")
        return np.logical_and.reduce(masks) if masks else None

    def _object(self) -> np.ndarray | None:
        if "objectGuess" not in self.keys:
            return None
        obj = self._numbers("objectGuess")
        while obj.ndim > 2 and obj.shape[0] == 1:
            obj = obj[0]
        if obj.ndim == 2 and np.isfinite(obj).all():
            return obj
        self.notes.append(f"objectGuess {obj.shape} is ignored: it is not one array (H, W) of finite numbers")
        return None

    def _positive(self, *keys: str) -> float | None:
        for key in keys:
            if key in self.keys:
                values = self.array(key, most_bytes=SMALL_BYTES).ravel()
                single = values.dtype.kind in "uif" and len(values) and (values == values[0]).all()
                if single and 0 < values[0] < math.inf:
                    return float(values[0])
        return None

    def _word(self, key: str) -> str:
        """The text in a member, in small letters; empty where there is none."""
        if key not in self.keys:
            return ""
        return "".join(self.array(key, most_bytes=SMALL_BYTES).astype(str).ravel()).strip().lower()

    def _declared_domain(self) -> Domain:
        declared = self._word("measurement_domain")
        for domain in get_args(Domain):
            if declared == domain:
                return domain
        raise DataError(
            f"{self.path}: measurement_domain is {declared!r}, counts or amplitude is needed: add --measurement-domain"
        )

    def _unit_of_the_probe(self) -> str:
        declared = self._word("probe_unit")
        if declared not in ("", *PROBE_UNITS):
            found = f"probe_unit is {declared!r}, {' or '.join(PROBE_UNITS)} is needed"
            raise DataError(f"{self.path}: {found}: correct it or leave it out")
        return declared

    def _photons_in_metadata(self) -> float | None:
        if "_metadata" not in self.keys:
            return None
        try:
            with self.archive.open("_metadata.npy") as stream:
                record = json.loads(_text_of(stream.read(METADATA_BYTES)))
            photons = float(record.get("physics_parameters", {}).get("nphotons") or math.nan)
        except Exception as error:  # what others wrote can be wrong in any way, and nothing depends on it
            self.notes.append(f"_metadata can't be read without running it and is ignored ({type(error).__name__})")
            return None
        return photons if 0 < photons < math.inf else None


def _fit_together(masks: list[np.ndarray]) -> bool:
    return len({mask.shape[-2:] for mask in masks}) == 1


def _as_stack(patterns: np.ndarray, n_positions: int) -> np.ndarray:
    """Patterns as [n, N, N]; [N, N, n] is known by n being the number of positions, a further axis of 1 is dropped."""
    if patterns.ndim == 4 and patterns.shape[-1] == 1:
        patterns = patterns[..., 0]
    if patterns.ndim == 3:
        first, second, last = patterns.shape
        if first == second != last and last == n_positions:
            return np.ascontiguousarray(np.moveaxis(patterns, -1, 0))
    return patterns


def _text_of(member: bytes) -> str:
    """The text in an array member; of a pickled one the first string that can be a JSON record, with no pickle run."""
    stream = io.BytesIO(member)
    header = np.lib.format.read_array_header_1_0 if np.lib.format.read_magic(stream) == (1, 0) else None
    _, _, dtype = (header or np.lib.format.read_array_header_2_0)(stream)
    if not dtype.hasobject:
        stream.seek(0)
        return str(np.lib.format.read_array(stream, allow_pickle=False))
    texts = (text for code, text, _ in pickletools.genops(stream.read()) if "UNICODE" in code.name)
    return next(text for text in texts if isinstance(text, str) and text.startswith("{"))
