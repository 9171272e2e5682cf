"""`report.html`: one self-contained page with the verdict, the images and the origin of a reconstruction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ptycho_torch import __version__
from ptycho_torch.files import atomic_path
from ptycho_torch.report.display import Box, bounding_box, colour_limits, illuminated_object
from ptycho_torch.report.images import LIGHT_COLOURS, Panel, object_panels
from ptycho_torch.report.patterns import pattern_rows
from ptycho_torch.report.plates import (
    Plate,
    complex_plate,
    dots_plate,
    image_plate,
    in_short,
    magnification,
    moves_plate,
)
from ptycho_torch.report.refinement import denoising_panels, has_moved
from ptycho_torch.types import Reconstruction

SENTENCES = {
    "good": "The object explains the patterns.",
    "doubtful": "The object explains the patterns only in part.",
    "bad": "The object does not explain the patterns. Do not trust this image.",
}
CURVE_SIZE = (300, 180)
"""Width and height of the curve of a refinement, in units of its own."""


class Headline(NamedTuple):
    """A number at the top of the page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Curve:
    """The held-out misfit over the sweeps, as points of a line."""

    points: str  # "x,y x,y …" from the upper left corner of `size`
    best: float  # x of the best sweep
    last: int  # number of the last sweep
    note: str
    size: tuple[int, int] = CURVE_SIZE


def write_report(
    output_dir: str | Path,
    reconstruction: Reconstruction,
    *,
    title: str,
    notes: Sequence[str] = (),
    command: str = "",
) -> None:
    """`report.html`: verdict, headline numbers, object, probe, patterns, maps, notes, origin, and a command.

    What is not known is left out. `notes` are lines about the scan (`Scan.notes`), `command` reproduces the result.
    The page needs no other file and asks for none.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("ptycho_torch.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    examples = reconstruction.examples
    page = environment.from_string(template).render(
        title=title,
        verdict=reconstruction.verdict,
        sentences=SENTENCES,
        headlines=list(headlines(reconstruction)),
        object=object_plates(reconstruction),
        probe=list(probe_plates(reconstruction)),
        patterns=[] if examples is None else list(pattern_rows(examples)),
        maps=list(map_plates(reconstruction)),
        refinement=list(refinement_plates(reconstruction)),
        curve=curve_of(reconstruction.scores.get("refinement", {})),
        notes=notes,
        tables=[(name, facts) for name, facts in tables(reconstruction) if facts],
        command=command,
        version=__version__,
    )
    with atomic_path(Path(output_dir) / "report.html") as temporary:  # a path may hold bytes that Python can't decode
        temporary.write_bytes(page.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode("utf-8"))


# --- numbers ----------------------------------------------------------------------------------------------------------


def headlines(reconstruction: Reconstruction) -> Iterator[Headline]:
    """Resolution, field of view, object pixel and dose, as far as they are known.

    The resolution is `scores["resolution"]`: `half_period_px`, and its band `band_px` (finest, coarsest) if known.
    """
    scores, size = reconstruction.scores, reconstruction.pixel_size_m
    resolution: Mapping[str, Any] = scores.get("resolution") or {}
    value, band = resolution.get("half_period_px"), resolution.get("band_px")
    if value is not None and math.isfinite(value):
        pixels = f"{value:.3g} px" if band is None else f"{band[0]:.3g} – {band[1]:.3g} px"
        in_metres = pixels if size is None else length(value * size, digits=3)
        yield Headline("resolution", in_metres, "half period" if size is None else f"half period; {pixels}")
    height, width = _Frame.of(reconstruction).shape
    pixels = f"{width} × {height} px"
    if size is None:
        yield Headline("field of view", pixels, "pixel size not known")
    else:
        yield Headline("field of view", area(width * size, height * size), pixels)
        yield Headline("object pixel", length(size))
    coverage = scores.get("coverage", {})
    for value, note in (
        (scores.get("mean_photons_per_pattern"), "photons per pattern"),
        (coverage.get("photons_per_illuminated_pixel"), "photons per object pixel"),
    ):
        if value is not None and math.isfinite(value):
            yield Headline("dose", in_short(float(value)), note)


def length(metres: float, *, digits: int = 4) -> str:
    """A length with the unit that suits it."""
    unit, name = _unit(metres)
    return f"{metres / unit:.{digits}g} {name}"


def area(width: float, height: float) -> str:
    """Width × height [m] in the unit that suits the longer."""
    unit, name = _unit(max(width, height))
    return f"{width / unit:.3g} × {height / unit:.3g} {name}"


def _unit(metres: float) -> tuple[float, str]:
    return next(((u, n) for u, n in ((1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm")) if metres >= u), (1e-12, "pm"))


# --- images -----------------------------------------------------------------------------------------------------------


def object_plates(reconstruction: Reconstruction) -> list[Plate]:
    """Phase and amplitude of the illuminated part of the object."""
    amplitude, phase = object_panels(reconstruction)
    unit = "arbitrary units" if reconstruction.has_arbitrary_amplitude else "transmission"
    return [image_plate(phase, "Phase", unit="rad"), image_plate(amplitude, "Amplitude", unit=unit)]


def probe_plates(reconstruction: Reconstruction) -> Iterator[Plate]:
    """Amplitude and phase of each mode of the probe, with its share of the power."""
    probe, size = reconstruction.probe, reconstruction.pixel_size_m
    if probe is None:
        return
    power = np.square(np.abs(probe)).sum((1, 2), dtype=np.float64)
    for number, (mode, share) in enumerate(zip(probe, power / (power.sum() or 1.0), strict=True), start=1):
        name, note = ("Probe", "") if len(probe) == 1 else (f"Mode {number}", f"{100 * share:.3g} % of the power")
        panel = Panel(np.abs(mode), (0.0, float(np.abs(mode).max()) or 1.0), "", LIGHT_COLOURS, size)
        yield image_plate(panel, f"{name} amplitude", unit="√photons", note=note)
        yield complex_plate(mode, f"{name} phase", pixel_size_m=size)


def map_plates(reconstruction: Reconstruction) -> Iterator[Plate]:
    """The misfit where the probe stood, and the illumination, both of the part that the object's images show."""
    weight, size, frame = reconstruction.weight, reconstruction.pixel_size_m, _Frame.of(reconstruction)
    misfit = reconstruction.scores.get("misfit_R_per_pattern")
    if misfit is not None and np.isfinite(misfit).any():
        misfit = np.asarray(misfit, np.float64)
        worst, median = int(np.nanargmax(misfit)), float(np.nanmedian(misfit))
        most = max(2 * median, colour_limits(misfit, np.ones(len(misfit)))[1]) or 1.0
        note = f"median {median:.3g}; largest {misfit[worst]:.3g}, pattern {reconstruction.pattern_indices[worst]}"
        panel = Panel(misfit, (0.0, most), "", LIGHT_COLOURS, size)
        positions = frame.of_positions(reconstruction.positions)
        yield dots_plate(frame.shape, positions, panel, "Misfit R of each pattern", note=note)
    light = np.where(weight > 0, weight, np.nan)[frame.box]
    panel = Panel(light, (0.0, float(weight.max()) or 1.0), "", LIGHT_COLOURS, size)
    yield image_plate(panel, "Illumination", unit="photons")


def refinement_plates(reconstruction: Reconstruction) -> Iterator[Plate]:
    """The moves of the positions, the phase before denoising in the colours of that after it, and what was removed."""
    if has_moved(reconstruction):
        assert reconstruction.given_positions is not None
        frame = _Frame.of(reconstruction)
        given, moved = map(frame.of_positions, (reconstruction.given_positions, reconstruction.positions))
        moves, times = np.linalg.norm(moved - given, axis=1), magnification(given, moved)
        note = f"median {np.median(moves):.2g} px, largest {moves.max():.2g} px"
        note += f"; arrows {times:.0f} times as long" if times > 1 else ""
        size = reconstruction.pixel_size_m
        yield moves_plate(frame.shape, given, moved, "Moves of the positions", pixel_size_m=size, note=note)
    if reconstruction.undenoised is not None:
        before, _, removed = denoising_panels(reconstruction)
        yield image_plate(before, "Phase before denoising", unit="rad")
        yield image_plate(removed, "Removed by denoising", unit="rad", note="should show no structure")


class _Frame(NamedTuple):
    """The illuminated part of an object, as its images show it."""

    box: Box
    corner: tuple[int, int]  # (y, x) of its first pixel, object pixels

    @classmethod
    def of(cls, reconstruction: Reconstruction) -> _Frame:
        box = bounding_box(illuminated_object(reconstruction.object, reconstruction.weight))
        y, x = reconstruction.origin
        return cls(box, (y + box[0].start, x + box[1].start))

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.box
        return rows.stop - rows.start, columns.stop - columns.start

    def of_positions(self, positions: np.ndarray) -> np.ndarray:
        """Positions [n, 2] from the first pixel."""
        return positions - np.array(self.corner)


def curve_of(history: Mapping[str, Any]) -> Curve | None:
    """The curve of a refinement from its scores; on a logarithmic scale where all values are positive."""
    values = np.asarray(history.get("likelihood_per_pixel", ()), np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    scaled = np.log(values) if values.min() > 0 else values
    width, height = CURVE_SIZE
    x = np.linspace(0, width, len(values))
    y = height * (scaled.max() - scaled) / (np.ptp(scaled) or 1.0)
    best = int(history["best_sweep"])
    note = f"{values[0]:.4g} → {values[best]:.4g}, best after {best} of {len(values) - 1} sweeps"
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return Curve(points, float(x[best]), len(values) - 1, note)


# --- origin -----------------------------------------------------------------------------------------------------------


def tables(reconstruction: Reconstruction) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The scan, the model, the settings that are on, and digests and versions, as (name, value) in words."""
    made_by = reconstruction.provenance
    yield "Scan", rows(made_by.get("scan", {}))
    model, scale = made_by.get("model", {}), made_by.get("intensity_scale", {})
    facts = {"model": model["name"]} if "name" in model else {}
    facts |= {key: value for key, value in model.get("facts", {}).items() if isinstance(value, str)}
    if "value" in scale:
        facts["intensity scale"] = f"{scale['value']:.6f} ({scale.get('origin', 'origin not known')})"
    yield "Model", rows(facts)
    settings = made_by.get("settings", {})
    yield "Settings", rows({key: value for key, value in settings.items() if value not in (None, False, "none")})
    digest = made_by.get("input", {}).get("sha256")
    versions = [(name, str(made_by[name])) for name in ("ptycho_torch", "torch") if name in made_by]
    yield "Digest and versions", [*([("scan sha256", str(digest))] if digest else []), *versions]


def rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts as (name, value) in words."""
    return [(str(key).replace("_", " "), _in_words(value)) for key, value in facts.items()]


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
