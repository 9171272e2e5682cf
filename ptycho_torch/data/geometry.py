"""Where a scan was taken: orientation, lag and unit of the positions, and what of them can't be.

Changes that a user asks for are exact: what a verdict proposes (`--flip y`) is this change.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ptycho_torch.data.axes import Orientation, turned_by
from ptycho_torch.data.scan import Scan
from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.units import POSITION_UNITS, degrees_of

STEPS = (0.003, 1.2)
"""The distance of neighbours over the width of the probe between which positions are believed to be pixels."""
PLAUSIBLE = (0.03, 0.8)
"""The same for what a unit would make of them: scans that can be reconstructed."""
DOUBLED = 0.05
"""Share of the patterns at the place of another one from which on it is said."""


def with_positions_turned(scan: Scan, turn: Orientation) -> Scan:
    """The scan with its positions in another orientation; an object in the file no longer belongs to it."""
    nominal = turn.of_positions(scan.nominal_positions)
    return replace(scan, positions=turn.of_positions(scan.positions), nominal_positions=nominal, obj=None)


def with_patterns_turned(scan: Scan, turn: Orientation) -> Scan:
    """The scan with its patterns and masks in another orientation, its probe as it is."""
    values = None if scan.valid_values is None else turn.of_images(scan.valid_values)
    return replace(
        scan, patterns=turn.of_images(np.asarray(scan.patterns)), valid=turn.of_images(scan.valid), valid_values=values
    )


def with_lag(scan: Scan, lag: int, first: int = 0) -> Scan:
    """Pattern j at position j + `lag`, from pattern `first` on; patterns that then have no position are left out."""
    numbers = np.arange(len(scan))
    places = np.where(numbers >= first, numbers + lag, numbers)
    there = (places >= 0) & (places < len(scan))
    kept = scan.subset(numbers[there])
    places = places[there]
    if not len(places):
        raise UsageError(f"--frame-lag {lag}: no pattern of {len(scan)} has a position then")
    return replace(kept, positions=scan.positions[places], nominal_positions=scan.nominal_positions[places])


def with_rotation(scan: Scan, degrees: float) -> Scan:
    """The scan with its positions turned from x towards y; an object in the file no longer belongs to it."""
    if not degrees:
        return scan
    middle = scan.positions.mean(axis=0)
    positions, nominal = (turned_by(each - middle, degrees) for each in (scan.positions, scan.nominal_positions))
    return replace(scan, positions=positions + middle, nominal_positions=nominal + middle, obj=None)


def with_unit(scan: Scan, unit: str) -> Scan:
    """The scan, positions in a unit of `POSITION_UNITS` converted to object pixels; `px` leaves them as they are."""
    if unit == "px":
        return replace(scan, position_unit="px")
    if unit not in POSITION_UNITS:
        raise UsageError(f"the unit of the positions is {unit!r}: px, {', '.join(POSITION_UNITS)} are known")
    if scan.pixel_size_m is None:
        raise DataError(f"{scan.source}: positions in {unit} need the object pixel, pixel_size_m in the file")
    factor = POSITION_UNITS[unit] / scan.pixel_size_m
    return replace(
        scan, positions=scan.positions * factor, nominal_positions=scan.nominal_positions * factor, position_unit="px"
    )


def lag_from(text: str) -> tuple[int, int]:
    """K or K@J: a lag, and the pattern from which on it holds; UsageError for other words."""
    lag, _, first = text.partition("@")
    try:
        return int(lag), int(first or 0)
    except ValueError:
        raise UsageError(f"--frame-lag {text}: K or K@J is needed, whole numbers") from None


def turned(
    scan: Scan,
    *,
    flip: str | None = None,
    swap_axes: bool = False,
    rotation: str | None = None,
    flip_detector: str | None = None,
    transpose_detector: bool = False,
    frame_lag: str | None = None,
    position_unit: str | None = None,
) -> Scan:
    """The scan in another geometry, as a verdict may propose.

    `flip` ("x", "y" or "xy") mirrors the positions, after `swap_axes` has taken x for y; `rotation` ("-34deg",
    "10mrad") then turns them from x towards y, about their middle; `flip_detector` mirrors the patterns, but not the
    probe, after `transpose_detector` has transposed them; `frame_lag` ("K" or "K@J") takes pattern j to position j + K,
    from J on; `position_unit` ("px", "m", "mm", "um", "nm", "angstrom") is that of the positions. Raises UsageError for
    another word, DataError for a length without `pixel_size_m`.
    """
    given = {
        "position unit": position_unit,
        "frame lag": frame_lag,
        "swap axes": "yes" if swap_axes else None,
        "flip": flip,
        "rotation": rotation,
        "transpose detector": "yes" if transpose_detector else None,
        "flip detector": flip_detector,
    }
    said = ", ".join(f"{name} {value}" for name, value in given.items() if value)
    if said:
        scan = replace(scan, notes=(*scan.notes, f"stated: {said}"))
    if position_unit is not None:
        scan = with_unit(scan, position_unit)
    if frame_lag is not None:
        scan = with_lag(scan, *lag_from(frame_lag))
    if swap_axes or flip:
        scan = with_positions_turned(scan, Orientation.of(swap=swap_axes, flip=flip or ""))
    if rotation is not None:
        scan = with_rotation(scan, degrees_of(rotation))
    if transpose_detector or flip_detector:
        scan = with_patterns_turned(scan, Orientation.of(swap=transpose_detector, flip=flip_detector or ""))
    return scan


# --- what is believed -------------------------------------------------------------------------------------------------


def neighbour_distance(positions: np.ndarray) -> float:
    """The median distance of a position to the nearest one at another place, in the unit of the positions."""
    places = np.unique(positions, axis=0)
    if len(places) < 2:
        return 0.0
    return float(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))


def probe_width(scan: Scan) -> float:
    """The diameter of the probe: four root-mean-square radii of its illumination [px]."""
    import torch

    from ptycho_torch.physics.probe import probe_radius

    return 4 * probe_radius(torch.as_tensor(scan.probe / np.abs(scan.probe).max()))


def in_pixels(scan: Scan) -> Scan:
    """The scan, its positions converted where they can't be object pixels and `pixel_size_m` settles their unit.

    They can't be where neighbours are more than 1.2 widths of the probe apart, or less than three thousandths of one.
    Raises DataError where all positions lie within a pixel and no unit is plausible.
    """
    step = neighbour_distance(scan.positions)
    if scan.position_unit or len(scan) < 2 or step == 0:
        return scan
    width = probe_width(scan)
    if STEPS[0] * width <= step <= STEPS[1] * width:
        return scan
    found = []
    if scan.pixel_size_m is not None:
        low, high = (share * width / step for share in PLAUSIBLE)
        found = [name for name, metres in POSITION_UNITS.items() if low <= metres / scan.pixel_size_m <= high]
    span = float(np.ptp(scan.positions, axis=0).max())
    if len(found) == 1:
        note = (
            f"neighbouring positions are {step:.3g} apart, {step / width:.2g} widths of the probe: taken to be in "
            f"{found[0]}, by the object pixel of {scan.pixel_size_m:.3g} m (--position-unit px would keep them)"
        )
        converted = with_unit(scan, found[0])
        return replace(converted, notes=(*scan.notes, note))
    if span < 1:
        raise DataError(
            f"{scan.source}: the positions of {len(scan)} patterns span {span:.3g} object pixels: positions in pixels "
            "are needed; give --position-unit and the object pixel, pixel_size_m, or --position-unit px to go on"
        )
    note = f"neighbouring positions are {step / width:.2g} widths of the probe apart: are they in object pixels?"
    return replace(scan, notes=(*scan.notes, note))


def remarks(scan: Scan) -> tuple[str, ...]:
    """What the positions of a scan can't tell: one place for several patterns, a line, or places without neighbours."""
    positions, found = scan.positions, list[str]()
    places = len(np.unique(np.round(positions, 3), axis=0))
    if places < (1 - DOUBLED) * len(scan):
        found.append(f"{len(scan)} patterns were taken at {places} places")
    if places < 3:
        found.append(
            f"{places} place{'s do' if places > 1 else ' does'} not determine an object: more overlap is needed"
        )
        return tuple(found)
    spread = np.linalg.svd(positions - positions.mean(axis=0), compute_uv=False) / np.sqrt(len(scan))
    if spread[1] < 0.02 * scan.n < spread[0]:
        found.append("the positions lie on a line: across it, overlap does not help to determine the object")
    distance = cKDTree(positions).query(positions, k=2)[0][:, 1]
    lonely = distance > scan.n
    if lonely.any() and not lonely.all():
        first = ", ".join(map(str, np.flatnonzero(lonely)[:4])) + (", …" if lonely.sum() > 4 else "")
        found.append(f"{lonely.sum()} of {len(scan)} patterns share no light with any other ({first})")
    return tuple(found)


CONCENTRATED = 0.3
"""Least first Fourier component of the profiles of a probe, over their sum, that has a centre: a Gaussian of N/4
standard deviation has 0.29, evenly filled arrays 0."""
EMPTY, EMPTY_PX = 30.0, 2**22
"""A canvas is mostly empty where it has this many times the pixels of all patterns together, and that many at least."""
CANVAS_BYTES = 160
"""Memory for a pixel of the canvas in a refinement: object, momenta, means, illumination of each subset."""


def largest_island(scan: Scan) -> Scan:
    """The scan; where its canvas would be mostly empty, only the most patterns that are linked by shared light, if they
    are half of all, with a note that names the others."""
    extent = np.ptp(scan.positions, axis=0) + scan.n
    area = float(extent.prod())
    if area <= max(EMPTY_PX, EMPTY * len(scan) * scan.n**2):
        return scan
    pairs = cKDTree(scan.positions).sparse_distance_matrix(cKDTree(scan.positions), scan.n)
    _, islands = connected_components(pairs, directed=False)
    sizes = np.bincount(islands)
    kept = islands == sizes.argmax()
    if kept.all() or kept.mean() < 0.5:
        return scan
    others = np.flatnonzero(~kept)
    names = ", ".join(map(str, others[:4])) + (", …" if len(others) > 4 else "")
    lost = f"{len(others)} of {len(scan)} patterns ({names})"
    note = f"{lost} lie far from the others: left out; they are a scan of their own"
    island = scan.subset(np.flatnonzero(kept))
    return replace(island, notes=(*scan.notes, note))


def check_canvas(scan: Scan, *, available_bytes: float) -> None:
    """DataError, naming the farthest pattern, where the canvas of these positions does not fit into memory."""
    extent = np.ptp(scan.positions, axis=0) + scan.n
    needed = float(extent.prod()) * CANVAS_BYTES
    if needed <= available_bytes:
        return
    away = np.abs(scan.positions - np.median(scan.positions, axis=0)).max(axis=1)
    farthest = int(away.argmax())
    y, x = scan.positions[farthest]
    raise DataError(
        f"{scan.source}: the positions span {extent[0]:.3g} x {extent[1]:.3g} object pixels, which needs "
        f"{needed / 1e9:.3g} GB and {available_bytes / 1e9:.3g} GB are free; the farthest is pattern {farthest} at y = "
        f"{y:.6g}, x = {x:.6g}: leave it out, or correct the unit of the positions"
    )


def with_probe_centred(scan: Scan) -> Scan:
    """The scan with its probe rolled by whole pixels to index N//2, where its light lies more than N/16 off it.

    The centre is that of the first Fourier component of the illumination, so that light around a corner has one; a
    probe that fills its array has none. Far field only: in the near field, patterns show where the probe is.
    """
    if scan.propagation != "far":
        return scan
    n, light = scan.n, np.square(np.abs(scan.probe.astype(np.complex128))).sum(axis=0)
    turn = np.exp(2j * np.pi * (np.arange(n) - n // 2) / n)
    means = [complex(light.sum(axis=1 - axis) @ turn) / light.sum() for axis in (0, 1)]
    offset = [round(float(np.angle(mean)) * n / (2 * np.pi)) for mean in means]
    if max(map(abs, offset)) <= n / 16 or min(map(abs, means)) < CONCENTRATED:
        return scan
    probe = np.roll(scan.probe, (-offset[0], -offset[1]), axis=(-2, -1))
    note = (
        f"the light of the probe lies ({offset[0]}, {offset[1]}) px (y, x) off the centre of its array, index "
        f"{n // 2}: it is moved there"
    )
    return replace(scan, probe=probe, notes=(*scan.notes, note))
