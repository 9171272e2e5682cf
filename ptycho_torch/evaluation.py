"""Two objects on one grid, compared in numbers and figures."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.data.scan import Scan
from ptycho_torch.errors import DataError
from ptycho_torch.files import atomic_path, write_json
from ptycho_torch.metrics import INSET_PX, Scale, align, compare, scored_region
from ptycho_torch.report.comparison import draw_comparison
from ptycho_torch.types import Reconstruction

LEAST_SIDE_PX = 16


@dataclass(frozen=True, eq=False)
class PlacedObject:
    """A complex object and where it lies on the scan's object grid."""

    path: Path
    object: np.ndarray  # complex [H, W]
    origin: tuple[int, int]  # (y, x) of object[0, 0]
    positions: np.ndarray | None  # float64 [n, 2] (y, x)

    def cut(self, rows: slice, columns: slice) -> np.ndarray:
        """The part in these rows and columns of the scan's object grid."""
        y, x = self.origin
        return self.object[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]


def evaluate(
    a: str | Path | Reconstruction | Scan,
    b: str | Path | Reconstruction | Scan,
    *,
    output_dir: str | Path | None = None,
    ramp: bool = False,
    scale: Scale = "none",
    inset: int = INSET_PX,
    data_range: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Scores of the object in A against the one in B, laid over each other by `origin`, no registration.

    Each is a reconstruction, a scan with a known object, or the path of a file that holds one or the other. Compared is
    the rectangle of the scan positions of A (else of B, else all that A and B share) drawn in by `inset` pixels. The
    global phase is removed; a phase ramp and the scale only when asked. `data_range`: (amplitude, phase [rad]) for PSNR
    and SSIM; by default the range of B in the compared rectangle. With `output_dir`: `evaluation.json`,
    `evaluation.csv` and `evaluation.png`. Raises DataError for objects that can't be compared.
    """
    one, other = as_placed_object(a), as_placed_object(b)
    recon, truth, (rows, columns) = _laid_over(one, other, inset=inset)
    result: dict[str, Any] = {
        "a": str(one.path),
        "b": str(other.path),
        "region": {"rows": [rows.start, rows.stop], "columns": [columns.start, columns.stop]},
        "inset_px": inset,
    }
    result |= compare(recon, truth, ramp=ramp, scale=scale, data_range=data_range)
    if output_dir is not None:
        _write(result, align(recon, truth, ramp=ramp, scale=scale), truth, folder=Path(output_dir))
    return result


def draw_evaluation(
    a: str | Path | Reconstruction | Scan,
    b: str | Path | Reconstruction | Scan,
    *,
    path: str | Path,
    names: tuple[str, str] = ("A", "B"),
    inset: int = INSET_PX,
) -> None:
    """A PNG of what `evaluate` compares, the global phase removed: amplitude and phase of both, and the difference."""
    recon, truth, _ = _laid_over(as_placed_object(a), as_placed_object(b), inset=inset)
    with atomic_path(path) as temporary:
        draw_comparison(align(recon, truth), truth, path=temporary, names=names)


def _laid_over(a: PlacedObject, b: PlacedObject, *, inset: int) -> tuple[np.ndarray, np.ndarray, tuple[slice, slice]]:
    """The parts of both objects that are compared, and where they lie on the scan's object grid."""
    rows, columns = shared_region(a, b, inset=inset)
    parts = a.cut(rows, columns), b.cut(rows, columns)
    for placed, part in zip((a, b), parts, strict=True):
        if not np.isfinite(part).all():
            raise DataError(f"{placed.path}: the object has NaN or infinite pixels in the compared region")
        if not part.any():
            raise DataError(f"{placed.path}: the object is zero all over the compared region")
    return *parts, (rows, columns)


def as_placed_object(given: str | Path | Reconstruction | Scan) -> PlacedObject:
    """The object of a value or a file, and where it lies; DataError where there is none."""
    if isinstance(given, Reconstruction):
        return PlacedObject(Path("reconstruction"), given.object, given.origin, given.positions)
    if isinstance(given, Scan):
        if given.obj is None:
            raise DataError(f"{given.source}: no object to compare with, only patterns; give a scan with its truth")
        return PlacedObject(given.source, given.obj, (0, 0), given.positions)
    return read_object(given)


def read_object(path: str | Path) -> PlacedObject:
    """The object in a `reconstruction.npz` (`object`, `origin`, `positions`) or in a scan NPZ (`objectGuess`)."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a reconstruction.npz or a scan NPZ with objectGuess")
    try:
        with path.open("rb") as opened:  # numpy leaves a damaged file open
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: not an npz archive; give a reconstruction.npz or a scan NPZ with objectGuess")
            wanted = ("object", "objectGuess", "origin", "positions", "ycoords", "xcoords")
            names, arrays = sorted(file.files), {key: file[key] for key in wanted if key in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: can't be read as an npz archive ({str(error).splitlines()[0]})") from None
    key = next((key for key in ("object", "objectGuess") if key in arrays), None)
    if key is None:
        raise DataError(f"{path}: no key `object` or `objectGuess`, only {', '.join(names) or 'nothing'}")
    obj = arrays[key]
    obj = obj[0] if obj.ndim == 3 and len(obj) == 1 else obj
    if obj.ndim != 2 or obj.dtype.kind not in "fc":
        raise DataError(f"{path}: `{key}` is {obj.dtype} of shape {obj.shape}, a complex array [H, W] is needed")
    y, x = _origin(arrays["origin"], path) if key == "object" and "origin" in arrays else (0, 0)
    return PlacedObject(path, obj.astype(np.complex128), (y, x), _positions(arrays, path))


def shared_region(a: PlacedObject, b: PlacedObject, *, inset: int) -> tuple[slice, slice]:
    """Rows and columns, on the scan's object grid, that `evaluate` compares. Raises DataError when too few."""
    low = np.maximum(a.origin, b.origin)
    high = np.minimum(np.add(a.origin, a.object.shape), np.add(b.origin, b.object.shape))
    positions = a.positions if a.positions is not None else b.positions
    if positions is None:
        low, high = (low, high) if inset == 0 else (low + inset, high - inset)
    else:
        try:
            rows, columns = scored_region(positions, inset)
        except ValueError as error:
            raise DataError(f"{a.path}: {error}; use a smaller inset") from None
        low = np.maximum(low, (rows.start, columns.start))
        high = np.minimum(high, (rows.stop, columns.stop))
    height, width = (max(0, int(size)) for size in high - low)
    if min(height, width) < LEAST_SIDE_PX:
        raise DataError(
            f"{a.path} and {b.path} share {height} x {width} px of the scanned area after an inset of {inset} px, "
            f"at least {LEAST_SIDE_PX} x {LEAST_SIDE_PX} are needed"
        )
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def _origin(value: np.ndarray, path: Path) -> tuple[int, int]:
    if value.shape != (2,) or value.dtype.kind not in "iuf" or not np.array_equal(value, np.rint(value)):
        raise DataError(f"{path}: `origin` is {value.tolist()}, two whole numbers (y, x) are needed")
    return int(value[0]), int(value[1])


def _positions(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray | None:
    if "positions" in arrays:
        positions = arrays["positions"]
    elif "ycoords" in arrays and "xcoords" in arrays:
        y, x = arrays["ycoords"].ravel(), arrays["xcoords"].ravel()
        if len(y) != len(x):
            raise DataError(f"{path}: {len(y)} ycoords but {len(x)} xcoords")
        positions = np.stack([y, x], axis=1)
    else:
        return None
    if positions.ndim != 2 or positions.shape[1] != 2 or positions.dtype.kind not in "iuf" or len(positions) == 0:
        raise DataError(f"{path}: positions are {positions.dtype} {positions.shape}, numbers [n, 2] are needed")
    if not np.isfinite(positions).all():
        raise DataError(f"{path}: positions have NaN or infinite values")
    return positions.astype(np.float64)


# --- output -----------------------------------------------------------------------------------------------------------


def _write(result: dict[str, Any], aligned: np.ndarray, truth: np.ndarray, *, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "evaluation.json", result)
        with atomic_path(folder / "evaluation.csv") as temporary, open(temporary, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("metric", "value"))
            table.writerows((name, value) for name, value in result.items() if not isinstance(value, (dict, list)))
        with atomic_path(folder / "evaluation.png") as temporary:
            draw_comparison(aligned, truth, path=temporary)
    except OSError as error:
        raise DataError(f"{folder}: can't be written ({error.strerror}); choose another folder") from None
