"""HDF5 files, read with care: nothing is opened before it's asked for, and what is wrong is said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ptycho_torch.data.frames import FrameStack
from ptycho_torch.errors import DataError, one_line
from ptycho_torch.units import unit_of

SIGNATURE = b"\x89HDF\r\n\x1a\n"
BLOCKS = (0, 512, 1024, 2048)
"""Where the signature may stand: Matlab puts a text before it."""
SMALL_BYTES = 2**26
"""Most of a text or a list of numbers."""
LARGEST_PARTS = 2**31
"""Most of a probe or an object."""
BUILT_IN = {1, 2, 3, 32000}
"""Filters that HDF5 brings itself: gzip, shuffle, checksum, LZF; the others come with hdf5plugin."""


def is_hdf5(path: Path) -> bool:
    """Whether the file starts like HDF5."""
    with open(path, "rb") as file:
        for block in BLOCKS:
            file.seek(block)
            if file.read(8) == SIGNATURE:
                return True
    return False


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The open file; DataError, in one line, where it is damaged, or where reading it fails."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        text = one_line(error).strip("'\"")
        if "truncated" in text or "unable to open file" in text.lower() or "signature" in text:
            raise DataError(f"{path}: the file is cut short or damaged: copy it again") from None
        raise DataError(f"{path}: it can't be read ({text})") from None


def holds(path: Path, *keys: str) -> bool:
    """Whether an HDF5 file has all of these datasets or groups."""
    if not is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return all(has(file, key) for key in keys)
    except (OSError, RuntimeError):
        return False


def dangling(path: Path) -> str:
    """The first link at the top or a level below that leads nowhere, in words; or nothing."""
    with opened(path) as file:
        for group in (file, *(node for key in file if isinstance(node := file.get(key), h5py.Group))):
            for key in group:
                link = group.get(key, getlink=True)
                if isinstance(link, h5py.ExternalLink | h5py.SoftLink) and group.get(key) is None:
                    target = f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else link.path
                    return f"{group.name.rstrip('/')}/{key} is a link to {target}, which is not there"
    return ""


def has(group: h5py.Group, key: str) -> bool:
    """Whether a dataset or group is there, and its link leads somewhere."""
    try:
        return key in group and group.get(key) is not None
    except (KeyError, OSError, RuntimeError, ValueError):
        return False


def first(group: h5py.Group, *keys: str) -> str | None:
    """The first of these keys that is there."""
    return next((key for key in keys if has(group, key)), None)


def dataset(group: h5py.Group, key: str) -> h5py.Dataset:
    """A dataset of numbers; DataError where there is none, its link is broken, or it holds something else."""
    path = Path(group.file.filename)
    if key not in group and group.get(key, getlink=True) is None:
        raise DataError(f"{path}: no {key}, the file holds {', '.join(list(group)[:8]) or 'nothing'}")
    try:
        found = group[key]
    except (KeyError, OSError, RuntimeError) as error:
        link = group.get(key, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            raise DataError(
                f"{path}: {key} is in {link.filename} ({link.path}), which is not there: copy it beside this file"
            ) from None
        raise DataError(f"{path}: {key} can't be opened ({one_line(error)})") from None
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path}: {key} is a group, a dataset is needed")
    if found.dtype.kind not in "buifc" and found.dtype.names is None:
        raise DataError(f"{path}: {key} is of type {found.dtype}, numbers are needed")
    return found


def array(group: h5py.Group, key: str, *, most_bytes: int = SMALL_BYTES) -> np.ndarray:
    """The numbers of a dataset; those of (real, imag) or (r, i) pairs are complex."""
    found = dataset(group, key)
    if not found.size:
        raise DataError(f"{group.file.filename}: {key} holds nothing: numbers are needed")
    size = found.size * found.dtype.itemsize
    if size > most_bytes:
        raise DataError(
            f"{group.file.filename}: {key} takes {size / 1e6:.3g} MB, at most {most_bytes / 1e6:.3g} can be right"
        )
    prepare(found)
    return as_complex(np.asarray(found[()]))


def as_complex(values: np.ndarray) -> np.ndarray:
    """Complex numbers from a compound of two; other numbers as they are."""
    if values.dtype.names is None:
        return values
    one, two = values.dtype.names[:2]
    return np.asarray(values[one] + 1j * values[two])


def number(group: h5py.Group, key: str, *, units: dict[str, float] | None = None) -> float | None:
    """A single number, in SI where `@units` says its unit, or the mean of equal ones; None where it isn't there."""
    if not has(group, key) or not isinstance(group[key], h5py.Dataset):
        return None
    found = group[key]
    if found.dtype.kind not in "buif" or not 0 < found.size <= SMALL_BYTES // 8:
        return None
    values = np.asarray(found[()], np.float64).ravel()
    value = float(np.median(values))
    if not np.isfinite(value):
        return None
    return value * (unit(found, units) if units else 1.0)


def unit(found: h5py.Dataset, units: dict[str, float], default: float = 1.0) -> float:
    """What the unit in `@units` is in SI; DataError for one that is not known."""
    word = found.attrs.get("units", found.attrs.get("unit"))
    if word is None:
        return default
    name = text_of(word)
    factor = unit_of(name, units)
    if factor is None:
        raise DataError(f"{found.file.filename}: {found.name} is in {name!r}, one of {', '.join(units)} is needed")
    return factor


def attribute(node: Any, *names: str) -> float | None:
    """The first of these attributes that is a number."""
    for name in names:
        if name in node.attrs and np.size(node.attrs[name]) == 1:
            value = np.asarray(node.attrs[name]).ravel()[0]
            if isinstance(value, int | float | np.number | np.bool_) and np.isfinite(value):
                return float(value)
    return None


def positive(value: float | None) -> float | None:
    """The number where it is more than 0."""
    return value if value is not None and value > 0 else None


def one_layer(obj: np.ndarray | None) -> np.ndarray | None:
    """The object of a single layer `[H, W]`; None for several."""
    if obj is not None and obj.ndim == 3 and len(obj) == 1:
        obj = obj[0]
    return obj if obj is not None and obj.ndim == 2 and np.isfinite(obj).all() else None


def sides(node: h5py.Dataset, *names: str) -> tuple[float, float] | None:
    """Height and width of a pixel, in the attributes of these names."""
    height, width = (positive(attribute(node, name)) for name in names)
    return None if height is None or width is None else (height, width)


def centre(node: h5py.Dataset) -> tuple[float, float] | None:
    """The middle of an object (y, x) [m], in its attributes."""
    y, x = attribute(node, "center_y_m"), attribute(node, "center_x_m")
    return None if y is None or x is None else (y, x)


def text(group: h5py.Group, key: str) -> str:
    """A text; empty where there is none."""
    if not has(group, key) or not isinstance(group[key], h5py.Dataset) or group[key].size > 1 or group[key].size == 0:
        return ""
    return text_of(group[key][()])


def text_of(value: Any) -> str:
    """A text of any of the ways in which HDF5 stores one."""
    value = np.asarray(value).ravel()[0] if np.size(value) else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def prepare(found: h5py.Dataset) -> None:
    """Makes the filters of a dataset available; DataError that names one that can't be had."""
    pipeline = found.id.get_create_plist()
    foreign = [
        pipeline.get_filter(k) for k in range(pipeline.get_nfilters()) if pipeline.get_filter(k)[0] not in BUILT_IN
    ]
    if not foreign:
        return
    import hdf5plugin  # noqa: F401  (its import registers the filters)

    for code, _, _, name in foreign:
        if not h5py.h5z.filter_avail(code):
            named = name.decode(errors="replace") or "unnamed"
            raise DataError(
                f"{found.file.filename}: {found.name} is compressed by filter {code} ({named}), which hdf5plugin "
                "lacks: store it again, with bitshuffle, LZ4 or gzip"
            )


def frames(group: h5py.Group, *keys: str, last_axis: bool = False) -> FrameStack:
    """The frames of one or more datasets, in this order, none read yet."""
    parts = [H5Frames.of(group, key, last_axis=last_axis) for key in keys]
    if len({(part.shape[1:], part.dtype) for part in parts}) > 1:
        shapes = " and ".join(sorted({f"{part.shape[1:]} {part.dtype}" for part in parts}))
        raise DataError(f"{group.file.filename}: its parts hold frames of {shapes}: one shape and type is needed")
    return FrameStack(parts)


@dataclass
class H5Frames:
    """Frames of one dataset, `[n, H, W]` or `[slow, fast, H, W]`; the file is open only while it's read."""

    path: Path
    key: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    lead: tuple[int, ...]  # the axes before H, W
    last_axis: bool = False  # stored as [H, W, n]

    @classmethod
    def of(cls, group: h5py.Group, key: str, *, last_axis: bool = False) -> H5Frames:
        """Of a dataset in an open file. Raises DataError for what are no frames, or can't be decompressed."""
        found = dataset(group, key)
        prepare(found)
        if found.ndim not in (3, 4) or 0 in found.shape:
            raise DataError(
                f"{group.file.filename}: {found.name} has shape {found.shape}, (n, height, width) is needed"
            )
        if found.dtype.kind not in "buif":
            raise DataError(f"{group.file.filename}: {found.name} is of type {found.dtype}, real numbers are needed")
        lead, sides = (found.shape[2:], found.shape[:2]) if last_axis else (found.shape[:-2], found.shape[-2:])
        sizes = (int(np.prod(lead)), int(sides[0]), int(sides[1]))
        return cls(Path(found.file.filename), found.name, sizes, found.dtype, tuple(map(int, lead)), last_axis)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames start … stop − 1."""
        with opened(self.path) as file:
            found = file[self.key]
            prepare(found)
            if self.last_axis:
                return np.ascontiguousarray(np.moveaxis(found[..., start:stop], -1, 0))
            if len(self.lead) == 1:
                return np.asarray(found[start:stop])
            fast = self.lead[1]
            low, high = start // fast, -(-stop // fast)
            if high - low == 1:
                return np.asarray(found[low, start - low * fast : stop - low * fast])
            lines = np.asarray(found[low:high]).reshape(-1, *found.shape[2:])
            return lines[start - low * fast : stop - low * fast]
