"""What a reader hands over, and the one function that makes our scan of it.

A reader says what it found and what its format means by it (`Declaration`); lengths, signs, origins and polarities are
converted here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.fft import next_fast_len

from ptycho_torch.data.axes import Orientation, turned_by
from ptycho_torch.data.checks import SMALLEST_N
from ptycho_torch.data.formats.beside import positions_in, table_beside, tables_in_words
from ptycho_torch.data.formats.images import image_in
from ptycho_torch.data.formats.matching import matched
from ptycho_torch.data.formats.optics import (
    HIGHEST_PHOTON_EV,
    electron_wavelength,
    object_pixel,
    photon_wavelength,
)
from ptycho_torch.data.frames import Corrected, FrameStack, Window
from ptycho_torch.data.grouping import central_region
from ptycho_torch.data.patterns import MAPPED_BYTES, chunks
from ptycho_torch.data.scan import Scan
from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.types import Domain, Propagation
from ptycho_torch.units import POSITION_UNITS

POSITIVE = (
    "electron_voltage",
    "distance_m",
    "detector_pixel_m",
    "diffraction_step",
    "pixel_size_m",
    "step_m",
    "semiangle_rad",
)
"""Of what is stated."""
SAMPLED = 64
"""Patterns whose mean tells where the beam is."""
LEAST_PIXEL_M, LARGEST_PIXEL_M = 1e-13, 1.0
"""Between which the sides of pixels are believed."""
SAME_PIXEL = 0.01
"""Relative difference up to which two statements of the object's pixel agree."""


@dataclass(frozen=True)
class Declaration:
    """What a format means by its arrays."""

    domain: Domain | None = "counts"
    """What the frames hold; None: the values tell."""
    columns: Literal["yx", "xy"] = "yx"
    """The order of the positions' columns: y is along rows."""
    sign: Literal[1, -1] = 1
    """+1: where the probe is on the object; −1: how the sample was moved, the opposite."""
    unit: str = "m"
    """Of the positions: px, or one of `POSITION_UNITS`."""
    index: float = 0.0
    """Of positions in px: the object's pixel that meets the probe's pixel N//2, minus the coordinate."""
    mask: Literal["1 good", "1 bad"] = "1 bad"
    frames: Literal["as stored", "transposed"] = "as stored"
    """Transposed: stored with columns before rows."""
    orientation: Literal["told", "not told"] = "told"
    """Whether the format says how the axes of the positions lie against those of the detector."""

    def __str__(self) -> str:
        about = "probe on the object" if self.sign > 0 else "sample motion"
        return (
            f"{self.domain or 'counts or amplitude'}; positions ({', '.join(self.columns)}) in {self.unit}, {about}; "
            f"mask {self.mask}; frames {self.frames}" + ("" if self.orientation == "told" else "; orientation not told")
        )


@dataclass(frozen=True)
class Source:
    """What a file holds, in its own terms. Lengths are in m, energies in eV, angles in rad, but for the positions."""

    path: Path
    form: str
    declares: Declaration
    frames: FrameStack | np.ndarray | None = None
    positions: np.ndarray | None = None  # [k, 2], in the declared order, sign and unit
    nominal_positions: np.ndarray | None = None
    basis: np.ndarray | None = None  # [3, 2], directions of rows and columns in which the positions [k, 3] are given
    frame_indexes: np.ndarray | None = None  # [n], of each frame
    position_indexes: np.ndarray | None = None  # [k], of the frame that each position belongs to
    raster: tuple[int, int] | None = None  # slow, fast: positions are a grid where the file lists none
    step_m: tuple[float, float] | None = None  # of the grid, along y and x
    dark: np.ndarray | None = None  # [H, W], counts of a frame without light
    flat: np.ndarray | None = None  # [H, W], response to even light
    frames_turned: Orientation | None = None  # of the stored frames, where the file itself tells
    grid_turned: tuple[bool, float] = (False, 0.0)
    """Of a raster, onto the detector's axes: swapped or not, then turned from x towards y [degrees]."""
    photon_energy_ev: float | None = None
    electron_voltage: float | None = None
    wavelength_m: float | None = None
    distance_m: float | None = None
    detector_pixel_m: tuple[float, float] | None = None  # height, width
    object_pixel_m: tuple[float, float] | None = None  # height, width
    diffraction_step: float | None = None  # dk [1/m] of a detector pixel, where the file tells no distance
    beam_centre: tuple[float, float] | None = None  # y, x, in pixels of the frames as stored
    mask: np.ndarray | None = None  # [H, W] or [n, H, W], as declared
    probe: np.ndarray | None = None
    probe_origin: str = ""
    probe_unit: str = ""
    obj: np.ndarray | None = None
    obj_centre_m: tuple[float, float] | None = None  # y, x, of the middle of the object's array
    propagation: Propagation = "far"
    propagation_distance_m: float | None = None
    domain_reason: str = ""
    nphotons: float | None = None
    digest: str = ""
    notes: tuple[str, ...] = ()

    def having(self, **parts: Any) -> Source:
        """This source with what another part of the file holds; what is None there is left as it is."""
        return replace(self, **{name: value for name, value in parts.items() if value is not None})

    def lacks(self, what: str, way: str) -> DataError:
        """The error for what is missing, in one line."""
        return DataError(f"{self.path} ({self.form}): {what}: {way}")


@dataclass(frozen=True)
class Stated:
    """What a user states beside the file, in SI and eV; it overrides what the file tells."""

    positions: Path | None = None
    mapping: str | None = None
    photon_energy_ev: float | None = None
    electron_voltage: float | None = None
    distance_m: float | None = None
    detector_pixel_m: float | None = None
    diffraction_step: float | None = None
    pixel_size_m: float | None = None
    step_m: float | None = None
    raster: tuple[int, int] | None = None
    semiangle_rad: float | None = None
    defocus_m: float | None = None
    position_sign: Literal[1, -1] | None = None
    frames: slice | None = None
    crop: int | None = None
    bin: int = 1
    centre: tuple[float, float] | None = None
    mask: Path | None = None
    dark: Path | None = None
    flat: Path | None = None

    def __post_init__(self) -> None:
        if self.photon_energy_ev is not None and self.electron_voltage is not None:
            raise UsageError("a photon energy and an electron voltage are given: leave one of them out")
        if self.photon_energy_ev is not None and not 1 <= self.photon_energy_ev <= HIGHEST_PHOTON_EV:
            raise UsageError(
                f"the photon energy is {self.photon_energy_ev:g} eV: 1 eV to {HIGHEST_PHOTON_EV:g} eV is needed"
            )
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} is {value:g}: more than 0 is needed")
        if self.defocus_m is not None and self.semiangle_rad is None:
            raise UsageError("a defocus is given without the beam's semi-angle: add --semiangle, as 21.4mrad")

    @property
    def cuts(self) -> bool:
        """Whether a part of each frame is asked for, or binning."""
        return self.crop is not None or self.bin != 1 or self.centre is not None

    def said(self) -> list[str]:
        """What was stated, in words, for the notes of the scan."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return [f"stated: {', '.join(f'{name} {value}' for name, value in given.items())}"] if given else []


NOTHING = Stated()
AS_STORED = Orientation(False, (False, False))


@dataclass(frozen=True)
class Prepared:
    """A source in our own terms, none of its frames read yet but for a small stack."""

    frames: FrameStack | np.ndarray  # [n, N, N]
    positions: np.ndarray  # float64 [n, 2] (y, x), object pixels
    known: dict[str, Any]  # what `Scan.from_arrays` takes beside them

    def part(self, at_most: int) -> Prepared:
        """The frames nearest to the middle of the scan, if there are more than that many."""
        is_known = len(self.frames) == len(self.positions) and bool(np.isfinite(self.positions).all())
        if len(self.positions) <= at_most or not is_known:
            return self
        chosen = np.sort(central_region(self.positions, at_most))
        frames = self.frames[chosen] if isinstance(self.frames, np.ndarray) else self.frames.chosen(chosen)
        nominal, valid = self.known["nominal_positions"], self.known["valid"]
        changed = {
            "nominal_positions": None if nominal is None else nominal[chosen],
            "valid": valid[chosen] if valid is not None and valid.ndim == 3 else valid,
        }
        return Prepared(frames, self.positions[chosen], self.known | changed)

    def scan(self, *, trust_detector: bool = False) -> Scan:
        """The checked scan."""
        frames = self.frames
        if isinstance(frames, FrameStack) and frames.nbytes < MAPPED_BYTES:
            frames = frames[:]
        return Scan.from_arrays(frames, self.positions, trust_detector=trust_detector, **self.known)


def as_scan(
    source: Source, stated: Stated = NOTHING, *, domain: Domain | None = None, trust_detector: bool = False
) -> Scan:
    """The checked scan of a source: wavelengths, pixels, positions and masks in our own terms.

    A position is the object pixel (y, x) that meets pixel N//2 of the probe. With lengths, it is the position over the
    object's pixel, dx = λz/(N·p) in the far field. Raises DataError, in one line, for what can't be told.
    """
    return prepared(source, stated, domain=domain).scan(trust_detector=trust_detector)


def prepared(source: Source, stated: Stated = NOTHING, *, domain: Domain | None = None) -> Prepared:
    """What `as_scan` makes a scan of. Raises what it raises."""
    if source.frames is None:
        raise source.lacks("it holds no patterns", "give the file that holds them")
    source = _with_table(source, stated)
    assert source.frames is not None
    frames, notes = source.frames, [*source.notes, *stated.said()]
    _check(source)
    if frames.ndim != 3:
        raise source.lacks(f"the patterns have shape {frames.shape}", "(n, N, N) is needed")
    rows, places, nominal, more = _paired(source, stated)
    notes += more
    source = _with_images(source, stated)
    has_fields = source.dark is not None or source.flat is not None
    if has_fields and (domain or source.declares.domain) == "amplitude":
        raise source.lacks("its frames are amplitudes, from which no dark or flat field can be taken", "leave it out")
    frames, mask, more = _seen(source, stated, rows)
    notes += more
    n = frames.shape[-1]
    wavelength = _wavelength(source, stated)
    pixel, more = _pixel(source, stated, wavelength, n)
    notes += more
    unit_px = source.declares.unit == "px" and source.positions is not None
    if not unit_px and pixel is None:
        raise _no_pixel(source, stated)
    known: dict[str, Any] = {}
    if source.propagation == "near":
        known["propagation_distance_m"] = source.propagation_distance_m
    origin = _object_origin(source, pixel)
    places = _in_pixels(source, stated, places, pixel, n) + origin
    if nominal is not None:
        nominal = _in_pixels(source, stated, nominal, pixel, n) + origin
    probe = _aperture(stated, wavelength, pixel, n) if stated.semiangle_rad else source.probe
    known |= {
        "probe": probe,
        "obj": source.obj,
        "nominal_positions": nominal,
        "valid": mask,
        "propagation": source.propagation,
        "probe_unit": source.probe_unit,
        "nphotons": source.nphotons,
        "pixel_size_m": None if pixel is None else float(np.sqrt(pixel[0] * pixel[1])),
        "wavelength_m": wavelength,
        "detector_distance_m": (stated.distance_m or source.distance_m) if source.propagation == "far" else None,
        "source": source.path,
        "digest": source.digest,
        "orientation_is_told": source.declares.orientation == "told" or source.grid_turned != (False, 0.0),
        "notes": tuple(notes),
    }
    if stated.semiangle_rad:
        known["probe_origin"] = "a round aperture of the stated semi-angle"
    elif source.probe is not None and source.probe_origin:
        known["probe_origin"] = source.probe_origin
    if domain is not None:
        known["domain_reason"] = "given by --measurement-domain"
    elif source.declares.domain is not None:
        domain, known["domain_reason"] = source.declares.domain, source.domain_reason or f"by the format, {source.form}"
    elif has_fields:
        domain, known["domain_reason"] = "counts", "as dark and flat fields are"
    return Prepared(frames, places, known | {"domain": domain})


def _check(source: Source) -> None:
    """DataError where what a file holds has a shape or a value that can't be."""
    positions, basis = source.positions, source.basis
    if positions is not None and (positions.ndim != 2 or positions.shape[1] not in (2, 3) or not len(positions)):
        raise source.lacks(f"its positions have shape {positions.shape}", "(n, 2) is needed")
    largest = float(np.finfo(np.float32).max)
    for name, values in (("probe", source.probe), ("object", source.obj), ("basis", basis)):
        if values is not None and bool((np.abs(values) > largest).any()):
            raise source.lacks(f"its {name} holds numbers beyond {largest:.2g}", "correct it or leave it out")
    if basis is not None:
        is_basis = basis.shape in ((3, 2), (2, 3)) and bool(np.isfinite(basis).all())
        if not is_basis or not np.linalg.norm(basis.reshape(3, 2) if basis.shape == (3, 2) else basis.T, axis=0).all():
            raise source.lacks(f"its basis vectors are {basis.tolist()}"[:120], "two directions (3, 2) are needed")
    assert source.frames is not None
    for name, indexes, of in (
        ("patterns", source.frame_indexes, len(source.frames)),
        ("positions", source.position_indexes, None if positions is None else len(positions)),
    ):
        if indexes is not None and (indexes.ndim != 1 or len(indexes) != of or not np.isfinite(indexes).all()):
            raise source.lacks(
                f"the indexes of its {name} have shape {indexes.shape} for {of}", "one of each is needed"
            )
    if source.probe is not None and (source.probe.ndim not in (2, 3, 4) or not source.probe.size):
        raise source.lacks(f"the probe is of shape {source.probe.shape}", "[N, N] or [mode, N, N] is needed")
    for name, sides in (("detector", source.detector_pixel_m), ("object", source.object_pixel_m)):
        if sides is not None and not all(LEAST_PIXEL_M < side < LARGEST_PIXEL_M for side in sides):
            found = f"it tells pixels of {sides[0]:.3g} x {sides[1]:.3g} m of the {name}"
            raise source.lacks(found, "give --detector-pixel or --pixel-size, or correct it")


# --- patterns and positions -------------------------------------------------------------------------------------------


def _paired(source: Source, stated: Stated) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, list[str]]:
    """The frames that are used (row numbers) with their positions, nominal ones, and what was done."""
    assert source.frames is not None
    n, notes = len(source.frames), list[str]()
    positions, nominal = source.positions, source.nominal_positions
    if positions is None:
        positions = _grid(source, stated)
    rows = np.arange(n)
    if source.position_indexes is not None and len(np.unique(source.position_indexes)) > 1:
        names = source.frame_indexes if source.frame_indexes is not None else np.arange(n)
        rows, positions, notes = matched(names, source.position_indexes, positions)
        nominal = None
        if not len(rows):
            raise source.lacks("no position belongs to a pattern", "patterns and positions are of different scans")
    if stated.frames is not None:
        chosen = np.arange(len(rows))[stated.frames]
        if len(rows) != len(positions):
            raise source.lacks(f"{len(positions)} positions for {n} patterns", "frames can't be chosen among them")
        if not len(chosen):
            raise UsageError(f"no frame of {len(rows)} is chosen by {stated.frames}")
        rows, positions = rows[chosen], positions[chosen]
        nominal = None if nominal is None else nominal[chosen]
        notes.append(f"{len(chosen)} of {n} frames are used, as asked")
    return rows, positions, nominal, notes


def _with_table(source: Source, stated: Stated) -> Source:
    """The source with the positions of a table: that which is stated, or the one beside a file that holds none."""
    assert source.frames is not None
    file = stated.positions
    if stated.raster is not None and (source.positions is not None or file is not None):
        raise source.lacks("it has positions, and a raster is stated", "leave --raster out")
    if stated.raster is not None:
        rows, columns = stated.raster
        count = len(source.frames)
        if rows * columns != count:
            raise source.lacks(
                f"it holds {count} patterns, no {rows} x {columns}", "say --raster ROWS,COLUMNS, as 64,64"
            )
        source = replace(source, raster=stated.raster)
        if unused := tables_in_words(source.path):
            source = replace(source, notes=(*source.notes, f"not used, as a raster is stated: {unused}"))
    if file is None and source.positions is None and source.raster is None:
        assert source.frames is not None
        file = table_beside(source.path, len(source.frames))
    if file is None:
        return source
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    places, unit, indexes, how = positions_in(file)
    declares = replace(source.declares, columns="yx", sign=1, unit=unit, index=0.0)
    notes = (*source.notes, f"positions: {file.name}, {how}")
    parts: dict[str, Any] = {
        "declares": declares,
        "positions": places,
        "position_indexes": indexes,
        "nominal_positions": None,
    }
    return replace(source, basis=None, raster=None, obj_centre_m=None, notes=notes, **parts)


def _grid(source: Source, stated: Stated) -> np.ndarray:
    """Positions of a raster, `[n, 2]` in m (y, x), along the detector's axes."""
    if source.raster is None:
        missing, ways = _missing_optics(source, stated)
        assert source.frames is not None
        tables = tables_in_words(source.path)
        found = ", ".join(
            ["no positions" + (f" ({tables} for {len(source.frames)} patterns)" if tables else ""), *missing]
        )
        raise source.lacks(f"it holds {found}", f"add {', '.join(['--positions FILE', *ways])}")
    step = source.step_m if stated.step_m is None else (stated.step_m, stated.step_m)
    if step is None:
        raise source.lacks("it tells no distance between the scan's positions", "add --step, as --step 1.2A")
    slow, fast = source.raster
    y, x = np.meshgrid(np.arange(slow) * step[0], np.arange(fast) * step[1], indexing="ij")
    is_swapped, degrees = source.grid_turned
    places = np.stack([x.ravel(), y.ravel()] if is_swapped else [y.ravel(), x.ravel()], axis=1)
    return turned_by(places, degrees) if degrees else places


def _in_pixels(
    source: Source, stated: Stated, positions: np.ndarray, pixel: tuple[float, float] | None, n: int
) -> np.ndarray:
    """Positions as probe on the object, (y, x), in object pixels."""
    declared = source.declares
    is_grid = source.positions is None
    if source.basis is not None:
        directions = source.basis if source.basis.shape == (3, 2) else source.basis.T
        positions = positions @ (directions / np.linalg.norm(directions, axis=0))
        return positions * (stated.position_sign or declared.sign) / np.asarray(pixel)
    places = positions[:, :2] if is_grid or declared.columns == "yx" else positions[:, 1::-1]
    places = places * (stated.position_sign or (1 if is_grid else declared.sign))
    if declared.unit != "px" or is_grid:
        assert pixel is not None
        places = places * (1.0 if is_grid else POSITION_UNITS[declared.unit]) / np.asarray(pixel)
    elif stated.cuts and source.frames is not None:
        places = places * (n * stated.bin / np.asarray(source.frames.shape[-2:]))  # as dx = λz/(N·p)
    return np.asarray(places, np.float64)


def _object_origin(source: Source, pixel: tuple[float, float] | None) -> np.ndarray:
    """What is added to positions in pixels, so that they are indices of the object's array: with lengths, its middle
    (H − 1)/2 is at its centre, and the middle of the probe's window is half a pixel before pixel N//2."""
    if source.declares.unit == "px":
        return np.full(2, source.declares.index)
    if source.obj is None or source.obj_centre_m is None or pixel is None or source.positions is None:
        return np.zeros(2)
    size = np.asarray(source.obj.shape[-2:])
    return (size - 1) / 2 + 0.5 - np.asarray(source.obj_centre_m) / np.asarray(pixel)


# --- lengths ----------------------------------------------------------------------------------------------------------


def _wavelength(source: Source, stated: Stated) -> float | None:
    if stated.photon_energy_ev is not None:
        return photon_wavelength(stated.photon_energy_ev)
    if stated.electron_voltage is not None:
        return electron_wavelength(stated.electron_voltage)
    if source.wavelength_m is not None:
        return source.wavelength_m
    if source.electron_voltage is not None:
        return electron_wavelength(source.electron_voltage)
    energy = source.photon_energy_ev
    if energy is None:
        return None
    if energy > HIGHEST_PHOTON_EV:
        raise source.lacks(
            f"its photon energy is {energy:g} eV, that of a storage ring or of electrons",
            "add --photon-energy, as 8keV, or --electron-voltage, as 300kV",
        )
    return photon_wavelength(energy)


def _pixel(
    source: Source, stated: Stated, wavelength: float | None, n: int
) -> tuple[tuple[float, float] | None, list[str]]:
    """Height and width of the object's pixel [m]: as stated, as the optics give it, or as the file tells."""
    if stated.pixel_size_m is not None:
        return (stated.pixel_size_m, stated.pixel_size_m), []
    distance = source.distance_m if stated.distance_m is None else stated.distance_m
    sides = source.detector_pixel_m
    if stated.detector_pixel_m is not None:
        sides = (stated.detector_pixel_m, stated.detector_pixel_m)
    given, computed = source.object_pixel_m, None
    if source.propagation == "far":
        if wavelength is not None and distance and sides is not None:
            height, width = (object_pixel(wavelength, distance, side * stated.bin, n) for side in sides)
            computed = (height, width)
        elif step := stated.diffraction_step or source.diffraction_step:
            computed = (1 / (n * stated.bin * step),) * 2
    told = any(x is not None for x in (stated.photon_energy_ev, stated.distance_m, stated.diffraction_step))
    if given is None or (computed is not None and told):
        return computed, []
    if computed is not None and abs(given[0] / computed[0] - 1) > SAME_PIXEL:
        note = (
            f"the file tells an object pixel of {given[0]:.4g} m, λz/(N·p) is {computed[0]:.4g} m: the file's is used"
        )
        return given, [note]
    return given, []


def _aperture(stated: Stated, wavelength: float | None, pixel: tuple[float, float] | None, n: int) -> np.ndarray:
    """The probe of a round aperture, F⁻¹[1(|k| ≤ α/λ) exp(−iπλΔf k²)], complex64 `[1, N, N]`, its middle at N//2.

    α is the semi-angle and Δf the defocus, more than 0 where the focus lies behind the sample (underfocus). Source:
    Kirkland 2020, §3.
    """
    if wavelength is None or pixel is None:
        raise UsageError("a semi-angle is given without the beam's energy: add --electron-voltage or --photon-energy")
    assert stated.semiangle_rad is not None
    widest = wavelength / (2 * max(pixel))
    if stated.semiangle_rad > widest:
        raise UsageError(
            f"a semi-angle of {stated.semiangle_rad * 1e3:.3g} mrad is given, and the detector reaches to "
            f"{widest * 1e3:.3g} mrad: is its unit right?"
        )
    ky, kx = np.meshgrid(*(np.fft.fftfreq(n, side) for side in pixel), indexing="ij")
    squared = ky**2 + kx**2
    opening = squared <= (stated.semiangle_rad / wavelength) ** 2
    wave = opening * np.exp(-1j * np.pi * wavelength * (stated.defocus_m or 0.0) * squared)
    return np.fft.fftshift(np.fft.ifft2(wave, norm="ortho"))[None].astype(np.complex64)


def _missing_optics(source: Source, stated: Stated) -> tuple[list[str], list[str]]:
    """What of energy, distance and detector pixel is not known, and the flags that give them."""
    missing, ways = list[str](), list[str]()
    try:
        wavelength = _wavelength(source, stated)
    except DataError:
        wavelength = None
    if wavelength is None:
        missing.append("no photon energy")
        ways.append("--photon-energy 8keV (or --electron-voltage 300kV)")
    if not (stated.distance_m or source.distance_m):
        missing.append("no distance of the detector")
        ways.append("--distance 2m")
    if source.detector_pixel_m is None and stated.detector_pixel_m is None:
        missing.append("no size of its pixels")
        ways.append("--detector-pixel 75um")
    return missing, ways


def _no_pixel(source: Source, stated: Stated) -> DataError:
    missing, ways = _missing_optics(source, stated)
    found = f"its positions are lengths, and it tells {', '.join(missing)}"
    return source.lacks(found, f"add {', '.join(ways)}, or --pixel-size, the pixel of the object")


# --- the detector -----------------------------------------------------------------------------------------------------


def _seen(
    source: Source, stated: Stated, rows: np.ndarray
) -> tuple[FrameStack | np.ndarray, np.ndarray | None, list[str]]:
    """The frames of these rows as N x N patterns with the beam in pixel N//2, bool mask of valid pixels, and notes."""
    frames, mask, notes = source.frames, _valid(source, rows), list[str]()
    assert frames is not None
    if source.dark is not None or source.flat is not None:
        corrected = Corrected(source.dark, source.flat)
        frames = corrected.of(frames) if isinstance(frames, np.ndarray) else frames.seen(corrected=corrected)
        if corrected.valid is not None:
            mask = corrected.valid if mask is None else mask & corrected.valid
    turn = source.frames_turned or Orientation(source.declares.frames == "transposed", (False, False))
    if turn != AS_STORED:
        mask = None if mask is None else turn.of_images(mask)
        frames = turn.of_images(frames) if isinstance(frames, np.ndarray) else frames.seen(turn=turn)
    if len(rows) != len(frames) or (np.diff(rows) != 1).any():
        frames = frames[rows] if isinstance(frames, np.ndarray) else frames.chosen(rows)
    window, more = _window(source, stated, frames)
    notes += more
    if window is not None:
        measured = np.ones(frames.shape[-2:], bool) if mask is None else mask
        frames = window.of(frames) if isinstance(frames, np.ndarray) else frames.seen(window=window)
        mask = window.of(measured, outside=False)
    return frames, mask, notes


def _with_images(source: Source, stated: Stated) -> Source:
    """The source with the mask, dark and flat field that are stated: of a mask, the value of most pixels is good."""
    found: dict[str, Any] = {}
    for name in ("mask", "dark", "flat"):
        if (path := getattr(stated, name)) is not None:
            found[name] = image_in(path, what=name)
    if "mask" in found:
        off = found["mask"] != 0
        bad = off if 2 * off.sum() <= off.size else ~off
        found["mask"] = ~bad if source.declares.mask == "1 good" else bad
    assert source.frames is not None
    shape = source.frames.shape[-2:]
    source = replace(source, **found)
    for name in ("dark", "flat"):
        image = getattr(source, name)
        if image is not None and image.shape != shape:
            raise source.lacks(f"the {name} field has shape {image.shape}, the patterns {shape}", "both need the same")
    if source.flat is not None and not (source.flat > 0).any():
        raise source.lacks("nothing of its flat field is above zero", "leave it out, or measure it again")
    return source


def _valid(source: Source, rows: np.ndarray) -> np.ndarray | None:
    """bool, True = measured, `[H, W]` or, where it differs between the frames of these rows, `[n, H, W]`, as stored."""
    if source.mask is None:
        return None
    assert source.frames is not None
    mask = np.asarray(source.mask)
    mask = mask != 0 if source.declares.mask == "1 good" else mask == 0
    shape = source.frames.shape[-2:]
    if mask.shape[-2:] != shape or mask.ndim not in (2, 3):
        raise source.lacks(f"the mask has shape {mask.shape}, the patterns {shape}", "both need that of a pattern")
    if mask.ndim == 3:
        if len(mask) not in (1, len(source.frames)):
            raise source.lacks(f"it holds {len(mask)} masks for {len(source.frames)} patterns", "one of each is needed")
        mask = mask[rows] if len(mask) > 1 else mask
        mask = mask[0] if (mask == mask[0]).all() else mask
    return mask


def _window(source: Source, stated: Stated, frames: FrameStack | np.ndarray) -> tuple[Window | None, list[str]]:
    """The N x N pixels about the beam; None where these are the frames as they are."""
    height, width = frames.shape[-2:]
    wanted = stated.crop
    if source.declares.unit == "px" and source.positions is not None and not stated.cuts:
        return None, []  # another N would be another pixel of the object
    if wanted is None and source.probe is not None and source.propagation == "far":
        rows, columns = source.probe.shape[-2:] if source.probe.ndim > 1 else (0, 0)
        wanted = rows if rows == columns and rows % 2 == 0 and rows > 0 else None
    centre, how = stated.centre, "as asked"
    told = source.beam_centre
    if centre is None and told is not None and 0 < told[0] < height and 0 < told[1] < width:
        y, x = told if source.declares.frames == "as stored" else told[::-1]
        centre, how = (y, x), "as the file tells"
    is_plain = height == width and height % 2 == 0 and stated.bin == 1 and wanted in (None, height)
    middle = (height // 2, width // 2)
    if is_plain and (centre is None or tuple(np.rint(centre).astype(int)) == middle):
        return None, []
    if centre is None:
        centre, how = _brightest(frames), "where the mean pattern is"
    y, x = (round(float(value)) for value in centre)
    if not (0 <= y < height and 0 <= x < width):
        raise UsageError(f"the centre ({y}, {x}) is outside of frames of {height} x {width} pixels")
    room = 2 * min(y, x, height - y, width - x) // stated.bin
    n = wanted if wanted is not None else _fast_size(room)
    if n < SMALLEST_N:
        raise source.lacks(
            f"the beam at ({y}, {x}), {how}, leaves {max(n, 0)} pixels of frames of {height} x {width}",
            "give --beam-centre, as 128,130, or --crop",
        )
    if n % 2:
        raise UsageError(f"--crop is {n}: an even number of pixels is needed")
    window = Window(y - n // 2 * stated.bin, x - n // 2 * stated.bin, n, stated.bin)
    binned = f", binned {stated.bin} x {stated.bin}" if stated.bin > 1 else ""
    beyond = n * stated.bin > 2 * min(y, x, height - y, width - x)
    missing = "; what lies beyond the frame is not measured" if beyond else ""
    return window, [f"frames of {height} x {width} pixels: {n} x {n}{binned} about ({y}, {x}) are used, {how}{missing}"]


def _fast_size(room: int) -> int:
    """The largest even number of pixels in this room whose Fourier transform is fast."""
    size = room - room % 2
    while size > 16 and next_fast_len(size) != size:
        size -= 2
    return size


def _brightest(frames: FrameStack | np.ndarray) -> tuple[float, float]:
    """The centre of mass (y, x) of the light in a mean pattern, without the largest of the type and single pixels."""
    from scipy.ndimage import median_filter

    some = np.unique(np.linspace(0, len(frames) - 1, SAMPLED).astype(int))
    total = np.zeros(frames.shape[-2:])
    for part in chunks(len(some), total.size):
        read = np.nan_to_num(frames[some[part]].astype(np.float64), posinf=0, neginf=0)
        if frames.dtype.kind in "ui":
            read[read >= np.iinfo(frames.dtype).max] = 0
        total += np.maximum(read, 0).sum(axis=0)
    total = median_filter(total, 3)
    total[total < 0.1 * total.max()] = 0
    weight = total.sum()
    if not weight:
        return total.shape[0] / 2, total.shape[1] / 2
    y, x = np.indices(total.shape)
    return float((y * total).sum() / weight), float((x * total).sum() / weight)
