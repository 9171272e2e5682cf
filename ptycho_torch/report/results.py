"""A reconstruction drawn, summarised in one line, written to and read from files."""

from __future__ import annotations

import base64
import html
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.files import as_json, atomic_path
from ptycho_torch.report.images import LIGHT_COLOURS, Panel, as_png, draw, object_panels
from ptycho_torch.report.page import length
from ptycho_torch.types import Reconstruction, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_PX, INLINE_PX = 480, 240
"""Longest side of each image of `plot`, and of those in a notebook."""
RECORDS = ("scores", "provenance")
UNREADABLE = (OSError, ValueError, TypeError, AttributeError, EOFError, KeyError, zipfile.BadZipFile)
"""What numpy, h5py and json raise on files that are no reconstruction."""


class Member(NamedTuple):
    """An array of a reconstruction in a file."""

    dtype: type[np.generic]
    unit: str
    axes: str
    shape: tuple[int | None, ...]  # None: any length
    is_needed: bool = True


class GivenObject(NamedTuple):
    """What a refinement that starts from a file needs of it."""

    object: np.ndarray  # complex64 [H, W]
    origin: tuple[int, int]  # (y, x) of object[0, 0], object pixels
    intensity_scale: float | None  # None: the file does not say


IMAGE, PAIRS = (None, None), (None, 2)
ARRAYS = {
    "object": Member(np.complex64, "1", "y, x", IMAGE),
    "weight": Member(np.float32, "photons", "y, x", IMAGE),
    "positions": Member(np.float64, "object pixels", "pattern, (y, x)", PAIRS),
    "pattern_indices": Member(np.int64, "1", "pattern", (None,)),
    "intensity_scale": Member(np.float64, "sqrt(photons)", "", ()),
    "origin": Member(np.int64, "object pixels", "(y, x)", (2,)),
    "pixel_size_m": Member(np.float64, "m", "", ()),
    "probe": Member(np.complex64, "sqrt(photons)", "mode, y, x", (None, None, None), is_needed=False),
    "given_positions": Member(np.float64, "object pixels", "pattern, (y, x)", PAIRS, is_needed=False),
    "intensities": Member(np.float32, "1", "pattern", (None,), is_needed=False),
    "undenoised": Member(np.complex64, "1", "y, x", IMAGE, is_needed=False),
}
"""Keys of a .npz, datasets of a .h5. `pixel_size_m` is NaN where it is not known."""


def facts_of(reconstruction: Reconstruction) -> list[str]:
    """The most important facts, each in a few words."""
    height, width = reconstruction.object.shape
    size, probe, scores = reconstruction.pixel_size_m, reconstruction.probe, reconstruction.scores
    facts = [] if reconstruction.verdict is None else [f"verdict {reconstruction.verdict.status}"]
    facts.append(f"{height} x {width} px" + (f" of {length(size)}" if size is not None else ""))
    facts.append(_counted(len(np.unique(reconstruction.pattern_indices)), "pattern"))
    if probe is not None:
        facts.append(_counted(len(probe), "probe mode"))
    if "misfit_R" in scores:
        facts.append(f"misfit R {scores['misfit_R']:.4f}")
    if "refinement" in scores:
        facts.append(_counted(scores["refinement"]["sweeps"], "sweep"))
    return facts


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def draw_reconstruction(reconstruction: Reconstruction) -> Figure:
    """Amplitude, phase and probe under the verdict, where there is one."""
    verdict = reconstruction.verdict
    title = "" if verdict is None else f"verdict: {verdict.status}"
    return draw(_panels(reconstruction), side_px=FIGURE_PX, title=title)


def _panels(reconstruction: Reconstruction) -> list[Panel]:
    """Amplitude and phase of the illuminated object, and √Σ_mode |probe|² [√photons] where there is a probe."""
    panels = list(object_panels(reconstruction))
    if reconstruction.probe is not None:
        modulus = np.sqrt(np.square(np.abs(reconstruction.probe)).sum(0))
        limits = (0.0, float(modulus.max()) or 1.0)
        size = reconstruction.pixel_size_m
        corner = (-(len(modulus) // 2),) * 2 if size is None else None
        panels.append(Panel(modulus, limits, "probe [√photons]", LIGHT_COLOURS, size, corner))
    return panels


def as_html(reconstruction: Reconstruction) -> str:
    """A small image and the facts, for notebooks."""
    image = base64.b64encode(as_png(draw(_panels(reconstruction), side_px=INLINE_PX))).decode("ascii")
    facts = html.escape(" · ".join(facts_of(reconstruction)))
    return f'<figure><img src="data:image/png;base64,{image}" alt="{facts}"><figcaption>{facts}</figcaption></figure>'


def save_reconstruction(reconstruction: Reconstruction, path: Path) -> None:
    """Write `path` in the format of its suffix, whole or not at all; UsageError for a suffix without a format."""
    write = WRITERS.get(path.suffix)
    if write is None:
        known = ", ".join(WRITERS)
        raise UsageError(f"{path}: no format is known for {path.suffix or 'a name without a suffix'!r}; use {known}")
    try:
        with atomic_path(path) as temporary:
            write(reconstruction, temporary)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError) as error:
        raise UsageError(f"{path}: it can't be written ({error.strerror}); choose another name or folder") from None


def read_reconstruction(path: Path) -> Reconstruction:
    """The reconstruction in a .npz or .h5 file; DataError, in one line, where there is none."""
    needed = [name for name, member in ARRAYS.items() if member.is_needed]
    return _from_arrays(*_members(path, needed=needed), path)


def read_object(path: Path) -> GivenObject:
    """The object in a .npz or .h5 file and where it lies, whatever else of a reconstruction the file holds or lacks."""
    arrays, _ = _members(path, needed=("object", "origin"))
    scale = arrays.get("intensity_scale")
    return GivenObject(arrays["object"], _origin(arrays), None if scale is None else float(scale))


def _members(path: Path, *, needed: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays in a file, `needed` ones and others, each of the shape and kind that it has to be, and its records."""
    read = READERS.get(path.suffix)
    if read is None:
        raise UsageError(f"{path}: a reconstruction is read from {' or '.join(READERS)}")
    if not path.exists():
        raise DataError(f"{path}: no such file; give a reconstruction.npz")
    try:
        arrays, records = read(path)
    except UNREADABLE as error:
        raise DataError(f"{path}: it can't be read as a reconstruction ({error}); give a reconstruction.npz") from None
    missing = [name for name in needed if name not in arrays]
    if missing:
        raise DataError(f"{path}: no {', no '.join(missing)}: it is no reconstruction; give a reconstruction.npz")
    for name, values in arrays.items():
        _check_member(name, values, path)
    return arrays, records


def _check_member(name: str, values: np.ndarray, path: Path) -> None:
    """DataError where an array has another shape or holds something else than it has to."""
    wanted = ARRAYS[name]
    kinds = "biufc" if np.issubdtype(wanted.dtype, np.complexfloating) else "biuf"
    as_long = len(values.shape) == len(wanted.shape) and all(
        length in (None, found) for length, found in zip(wanted.shape, values.shape, strict=True)
    )
    if not as_long or values.dtype.kind not in kinds:
        raise DataError(
            f"{path}: {name} is {values.dtype} of shape {values.shape}, {wanted.dtype.__name__} [{wanted.axes}] is "
            "needed; give a reconstruction.npz"
        )
    if name in ("origin", "intensity_scale") and not np.isfinite(values).all():
        raise DataError(f"{path}: {name} is {values.tolist()}: it is damaged; give a reconstruction.npz")
    if name == "intensity_scale" and not values > 0:
        raise DataError(f"{path}: {name} is {values}, a positive number is needed; give a reconstruction.npz")


def _origin(arrays: dict[str, np.ndarray]) -> tuple[int, int]:
    y, x = arrays["origin"]
    return int(y), int(x)


def _arrays_of(reconstruction: Reconstruction) -> dict[str, np.ndarray]:
    arrays = {name: getattr(reconstruction, name) for name in ARRAYS}
    arrays["pixel_size_m"] = np.float64(reconstruction.pixel_size_m or np.nan)
    return {
        name: np.asarray(value, dtype=ARRAYS[name].dtype) if ARRAYS[name].is_needed else value
        for name, value in arrays.items()
        if value is not None
    }


def _from_arrays(arrays: dict[str, np.ndarray], records: dict[str, Any], path: Path) -> Reconstruction:
    obj = arrays["object"]
    if arrays["weight"].shape != obj.shape or arrays["positions"].shape != (len(arrays["pattern_indices"]), 2):
        raise DataError(
            f"{path}: object {obj.shape} with weight {arrays['weight'].shape}, positions {arrays['positions'].shape} "
            f"with pattern_indices {arrays['pattern_indices'].shape}: they do not fit; give a reconstruction.npz"
        )
    size = float(arrays["pixel_size_m"])
    values: dict[str, Any] = {
        **arrays,
        "origin": _origin(arrays),
        "intensity_scale": float(arrays["intensity_scale"]),
        "pixel_size_m": size if 0 < size < np.inf else None,
    }
    record = records.get("scores", {}).get("verdict")
    return Reconstruction(**values, **records, verdict=None if record is None else Verdict.from_dict(record))


def _write_npz(reconstruction: Reconstruction, path: Path) -> None:
    scores = {name: value for name, value in reconstruction.scores.items() if name != "timing"}  # equal in equal runs
    records = {"scores": np.array(as_json(scores)), "provenance": np.array(as_json(reconstruction.provenance))}
    np.savez(path, **_arrays_of(reconstruction), **records)  # type: ignore[arg-type]


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with path.open("rb") as opened:  # numpy leaves a damaged file open
        file = np.load(opened, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array, no archive")
        records = {name: json.loads(str(file[name][()])) for name in RECORDS if name in file.files}
        return {name: file[name] for name in ARRAYS if name in file.files}, records


def _write_h5(reconstruction: Reconstruction, path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in _arrays_of(reconstruction).items():
            dataset = file.create_dataset(name, data=values, track_times=False)
            dataset.attrs["units"], dataset.attrs["axes"] = ARRAYS[name].unit, ARRAYS[name].axes
        for name in RECORDS:
            file.create_dataset(name, data=as_json(getattr(reconstruction, name)), track_times=False)
        file.attrs["creator"] = "ptycho_torch"
        _write_nexus(reconstruction, file)


def _write_nexus(reconstruction: Reconstruction, file: Any) -> None:
    """Phase [rad] and amplitude as NXdata, with their axes, so that viewers of NeXus show them (silx, h5web)."""
    size = reconstruction.pixel_size_m
    entry = file.create_group("entry")
    file.attrs["NX_class"], file.attrs["default"] = "NXroot", "entry"
    entry.attrs["NX_class"], entry.attrs["default"] = "NXentry", "phase"
    obj = reconstruction.object
    for name, values, unit in (("phase", np.angle(obj), "rad"), ("amplitude", np.abs(obj), "")):
        group = entry.create_group(name)
        group.attrs["NX_class"], group.attrs["signal"], group.attrs["axes"] = "NXdata", "data", ["y", "x"]
        data = group.create_dataset("data", data=values.astype(np.float32), track_times=False)
        data.attrs["units"] = unit
        for axis, start, count in zip("yx", reconstruction.origin, obj.shape, strict=True):
            places = (start + np.arange(count)) * (size * 1e6 if size else 1.0)
            group.create_dataset(axis, data=places, track_times=False).attrs["units"] = "um" if size else "px"


def _read_h5(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    import h5py

    with h5py.File(path, "r") as file:
        records = {name: json.loads(file[name].asstr()[()]) for name in RECORDS if name in file}
        return {name: np.asarray(file[name][()]) for name in ARRAYS if name in file}, records


def _write_tif(reconstruction: Reconstruction, path: Path) -> None:
    import tifffile

    obj = reconstruction.object
    pages = np.stack([np.abs(obj), np.angle(obj)]).astype(np.float32)
    size = reconstruction.pixel_size_m
    resolution = (0.01 / size, 0.01 / size) if size else None  # pixels per centimetre
    options: dict[str, Any] = {"resolution": resolution, "resolutionunit": "CENTIMETER"} if resolution else {}
    metadata = {"Labels": ["amplitude (transmission)", "phase [rad]"]}
    tifffile.imwrite(path, pages, photometric="minisblack", metadata=metadata, **options)


WRITERS: dict[str, Callable[[Reconstruction, Path], None]] = {".npz": _write_npz, ".h5": _write_h5, ".tif": _write_tif}
READERS: dict[str, Callable[[Path], tuple[dict[str, np.ndarray], dict[str, Any]]]] = {
    ".npz": _read_npz,
    ".h5": _read_h5,
}
