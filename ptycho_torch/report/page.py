"""`report.html`: one self-contained page with the images, the scores and the origin of a reconstruction."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ptycho_torch import __version__
from ptycho_torch.files import atomic_path
from ptycho_torch.report.display import colour_limits, illuminated_object
from ptycho_torch.report.images import LIGHT_COLOURS, Panel, as_png, draw, object_panels
from ptycho_torch.types import Reconstruction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP_PX = 800
LONGEST_LIST = 4
"""A longer list of numbers is a curve, and no row of a table."""


class Headline(NamedTuple):
    """A number at the top of the page."""

    name: str
    value: str
    note: str = ""


class Plate(NamedTuple):
    """An image of the page."""

    source: str  # a data: address
    caption: str
    wide: bool


def write_report(
    output_dir: str | Path,
    reconstruction: Reconstruction,
    *,
    title: str,
    scan_facts: Mapping[str, Any],
    bundle_facts: Mapping[str, Any],
    per_pattern_misfit: np.ndarray | None = None,
    refinement: Figure | None = None,
    denoising: Figure | None = None,
    command: str = "",
) -> None:
    """`report.html`: images, headline numbers, maps of misfit and illumination, facts, and the command to reproduce it.

    Scores are those of the reconstruction; `per_pattern_misfit` [n] belongs to its positions. The page needs no other
    file and asks for none. `refinement` and `denoising` are the figures of these steps.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("ptycho_torch.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        title=title,
        images=[_plate(draw([panel]), panel.label.partition(" ")[0]) for panel in object_panels(reconstruction)],
        headlines=list(headlines(reconstruction, bundle_facts)),
        maps=[*_maps(reconstruction, per_pattern_misfit), *_refinement_plates(refinement, denoising)],
        tables=[
            (name, list(rows(facts)))
            for name, facts in (("Scan", scan_facts), ("Model", bundle_facts), ("Scores", reconstruction.scores))
            if facts
        ],
        command=command,
        version=__version__,
    )
    with atomic_path(Path(output_dir) / "report.html") as temporary:  # a path may hold bytes that Python can't decode
        temporary.write_bytes(page.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode("utf-8"))


def headlines(reconstruction: Reconstruction, bundle_facts: Mapping[str, Any]) -> Iterator[Headline]:
    """The numbers at the top of the page, as far as they are known."""
    scores = reconstruction.scores
    timing, coverage, reference = (scores.get(name, {}) for name in ("timing", "coverage", "reference"))
    yield from _known("misfit R", scores.get("misfit_R"), ".4f", "0 is perfect; noise sets the floor")
    yield from _known("patterns", scores.get("n_patterns", len(reconstruction.positions)), ",d")
    yield from _known("patterns per second", timing.get("patterns_per_s"), ",.0f")
    note = "of the canvas" if coverage.get("illuminated_fraction_of_canvas") is not None else ""
    yield from _known("illuminated", coverage.get("illuminated_fraction_of_canvas"), ".1%", note)
    yield from _known("photons per pixel", coverage.get("photons_per_illuminated_pixel"), ",.4g")
    _, _, origin = str(bundle_facts.get("intensity scale", "")).partition(" ")
    yield Headline("intensity scale", f"{reconstruction.intensity_scale:.6f}", origin.strip("()"))
    if reconstruction.pixel_size_m is not None:
        yield Headline("object pixel", length(reconstruction.pixel_size_m))
    for name, key, form in (
        ("amplitude PSNR", "amplitude_psnr_db", ".1f"),
        ("phase PSNR", "phase_psnr_db", ".1f"),
        ("amplitude SSIM", "amplitude_ssim", ".3f"),
        ("phase SSIM", "phase_ssim", ".3f"),
        ("FRC half-bit", "frc_half_bit_px", ".2f"),
    ):
        unit = " dB" if key.endswith("_db") else " px" if key.endswith("_px") else ""
        for headline in _known(name, reference.get(key), form, "against the file's object"):
            yield headline._replace(value=headline.value + unit)


def rows(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Facts as (name, value) in words; what lies inside a fact is named after it, curves are left out."""
    for key, value in facts.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        value = value.tolist() if hasattr(value, "tolist") else value
        if isinstance(value, Mapping):
            yield from rows(value, f"{name} · ")
        elif not isinstance(value, (list, tuple)):
            yield name, _in_words(value)
        elif len(value) <= LONGEST_LIST:
            yield name, ", ".join(map(_in_words, value))


def length(metres: float) -> str:
    """A length with the unit that suits it."""
    unit, name = next(((u, n) for u, n in ((1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm")) if metres >= u), (1e-12, "pm"))
    return f"{metres / unit:.4g} {name}"


def _known(name: str, value: Any, form: str, note: str = "") -> Iterator[Headline]:
    if value is not None and math.isfinite(value):
        yield Headline(name, format(value, form), note)


def _in_words(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plate(figure: Figure, caption: str) -> Plate:
    width, height = figure.get_size_inches()
    source = "data:image/png;base64," + base64.b64encode(as_png(figure)).decode("ascii")
    return Plate(source, caption, bool(width > 1.5 * height))


def _refinement_plates(refinement: Figure | None, denoising: Figure | None) -> Iterator[Plate]:
    if denoising is not None:
        yield _plate(denoising, "denoising: phase before and after, and the difference, which should show no structure")
    if refinement is not None:
        moves = "; refined positions" if len(refinement.axes) > 1 else ""
        yield _plate(refinement, f"refinement: held-out misfit after each sweep, the best one marked{moves}")


def _maps(reconstruction: Reconstruction, misfit: np.ndarray | None) -> Iterator[Plate]:
    weight, corner = reconstruction.weight, reconstruction.origin
    if misfit is not None and np.isfinite(misfit).any():
        worst = int(np.nanargmax(misfit))
        caption = (
            f"misfit R of each pattern where the probe stood; median {np.nanmedian(misfit):.4f}, "
            f"largest {misfit[worst]:.4f} at pattern {reconstruction.pattern_indices[worst]}"
        )
        limits, nothing = colour_limits(misfit, np.ones(len(misfit))), np.full(weight.shape, np.nan)
        dots = (reconstruction.positions, misfit)
        panel = Panel(nothing, limits, "misfit R", LIGHT_COLOURS, corner=corner, points=dots)
        yield _plate(draw([panel], side_px=MAP_PX), caption)
    seen, limits = illuminated_object(reconstruction.object, weight), (0.0, float(weight.max()) or 1.0)
    light = Panel(weight, limits, "illumination [photons per pixel]", LIGHT_COLOURS, corner=corner, outline=seen)
    yield _plate(draw([light], side_px=MAP_PX), "light that reached the object; what lies inside the line is shown")
