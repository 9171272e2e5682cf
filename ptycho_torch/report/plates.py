"""The images of the page: exact pixels without words in them, so that text and colours of the page suit any screen."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ptycho_torch.report.images import DPI, MOST_PX, Panel, round_number, scale_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CRISP_PX = 600
"""The pixels of an image smaller than this are shown as squares; a larger one is resampled by the browser."""
DRAWN_PX = 900
"""Longest side of a drawing of dots or arrows."""
BAR_STEPS = 128
HIDDEN = (0.0, 0.0, 0.0, 0.0)
"""Of pixels about which nothing is known: the page shows through."""
MIDDLE = "#808891"
"""A grey that is seen on white and on black."""
ACCENT = "#d1495b"


class ColourBar(NamedTuple):
    """The ends of a colour scale."""

    source: str  # a data: address
    low: str
    high: str
    unit: str


class ScaleBar(NamedTuple):
    """A length in an image."""

    percent: float  # of the width of the image
    name: str


@dataclass(frozen=True)
class Plate:
    """An image of the page."""

    title: str
    source: str  # a data: address
    alt: str
    width: int  # px
    height: int
    colours: ColourBar | None = None
    length: ScaleBar | None = None
    note: str = ""

    @property
    def is_crisp(self) -> bool:
        """Whether the pixels are to be seen."""
        return max(self.width, self.height) <= CRISP_PX

    @property
    def is_wide(self) -> bool:
        """Whether the image takes a row for itself."""
        return self.width > 1.8 * self.height


def image_plate(
    panel: Panel,
    title: str,
    *,
    unit: str = "",
    note: str = "",
    ends: tuple[str, str] | None = None,
    bad: Any = HIDDEN,
    has_length: bool = True,
) -> Plate:
    """A panel as an image of exact pixels, every k-th where it is longer than 2400; NaN pixels in the colour `bad`.

    `ends` are the words at the ends of the colour bar, by default its limits; `has_length` gives it a scale bar.
    """
    low, high = ends or (in_short(panel.limits[0]), in_short(panel.limits[1]))
    step = math.ceil(max(panel.image.shape) / MOST_PX)
    pixels = coloured(panel.image[::step, ::step], panel.limits, panel.colours, bad=bad)
    bar = ColourBar(colour_bar(panel.colours), low, high, unit)
    alt = f"{title}: image of {_size(panel.image)} pixels, colours from {low} to {high} {unit}".rstrip()
    return _plate(
        pixels, title, alt, bar, _length(panel.pixel_size_m, panel.image.shape[1]) if has_length else None, note
    )


def complex_plate(wave: np.ndarray, title: str, *, pixel_size_m: float | None) -> Plate:
    """The phase of a wave [h, w] as hue, its modulus as brightness."""
    from matplotlib import colormaps

    hue = colormaps["hsv"]((np.angle(wave) / (2 * np.pi)) % 1.0)[..., :3]
    modulus = np.abs(wave) / (np.abs(wave).max() or 1.0)
    pixels = np.concatenate([hue * modulus[..., None], np.ones((*wave.shape, 1))], axis=-1)
    bar = ColourBar(colour_bar("hsv", start=0.5), "−π", "π", "rad")
    alt = f"{title}: image of {_size(wave)} pixels, phase as hue, amplitude as brightness"
    return _plate(
        np.rint(255 * pixels).astype(np.uint8), title, alt, bar, _length(pixel_size_m, wave.shape[1]), note=""
    )


def dots_plate(
    shape: tuple[int, int], positions: np.ndarray, panel: Panel, title: str, *, unit: str = "", note: str = ""
) -> Plate:
    """The values `panel.image` [n] as dots at positions [n, 2] on a canvas of `shape`; unknown (NaN) ones left out."""
    figure, axes = _canvas(shape)
    dots_per_px = max(figure.get_size_inches()) * DPI / max(shape)
    diameter = float(np.clip(0.95 * pitch(positions) * dots_per_px * 72 / DPI, 2.0, 30.0))
    (low, high), known = panel.limits, np.isfinite(panel.image)
    y, x = positions[known].T
    colours, edge = panel.image[known], {"edgecolors": MIDDLE, "linewidths": min(0.5, 0.1 * diameter)}
    axes.scatter(x, y, c=colours, s=diameter**2, vmin=low, vmax=high, cmap=panel.colours, **edge)
    bar = ColourBar(colour_bar(panel.colours), in_short(low), in_short(high), unit)
    alt = f"{title}: {known.sum()} dots, colours from {bar.low} to {bar.high}. {note}"
    return _plate(_pixels(figure), title, alt, bar, _length(panel.pixel_size_m, shape[1]), note)


def moves_plate(
    shape: tuple[int, int], given: np.ndarray, moved: np.ndarray, title: str, *, pixel_size_m: float | None, note: str
) -> Plate:
    """Arrows from given to refined positions [n, 2] on a canvas of `shape`, as much longer as `magnification` says."""
    figure, axes = _canvas(shape)
    draw_moves(axes, given, moved)
    return _plate(_pixels(figure), title, f"{title}: {note}", None, _length(pixel_size_m, shape[1]), note)


def draw_moves(axes: Any, given: np.ndarray, moved: np.ndarray) -> None:
    """Dots at the given positions and arrows towards the refined ones, `magnification` times as long as the moves."""
    (y, x), (dy, dx) = given.T, (moved - given).T * magnification(given, moved)
    axes.plot(x, y, ".", color=MIDDLE, markersize=3, label="given")
    axes.quiver(x, y, dx, dy, angles="xy", scale_units="xy", scale=1, width=0.004, color=ACCENT)


def magnification(given: np.ndarray, moved: np.ndarray) -> float:
    """How many times as long as the moves their arrows are: 1, 2, 5, 10, … so that nine of ten are within the pitch."""
    long = float(np.quantile(np.linalg.norm(moved - given, axis=1), 0.9))
    return max(1.0, round_number(pitch(given) / long)) if long > 0 else 1.0


def pitch(positions: np.ndarray) -> float:
    """The mean distance of neighbours if positions [n, 2] filled their rectangle evenly, √(area / n)."""
    return math.sqrt(np.prod(np.maximum(np.ptp(positions, axis=0), 1.0)) / len(positions))


def coloured(image: np.ndarray, limits: tuple[float, float], colours: str, *, bad: Any = HIDDEN) -> np.ndarray:
    """The colours of an image [h, w], RGBA uint8 [h, w, 4]; NaN pixels `bad`."""
    from matplotlib import colormaps

    low, high = limits
    parts = np.ma.masked_invalid((image.astype(np.float64) - low) / (high - low))
    return colormaps[colours].with_extremes(bad=bad)(parts, bytes=True)


def colour_bar(colours: str, *, start: float = 0.0) -> str:
    """A strip with the colours of a map, from `start` on and around, as a data: address."""
    from matplotlib import colormaps

    return as_address(colormaps[colours]((np.linspace(0, 1, BAR_STEPS) + start)[None] % (1 + 1e-9), bytes=True))


def as_address(pixels: np.ndarray) -> str:
    """Pixels [h, w, 4] as a data: address of a PNG image."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png", metadata={"Software": None})  # type: ignore[dict-item]
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def in_short(value: float) -> str:
    """A number to three digits, with a true minus, in powers of ten where it is large."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        exponent = math.floor(math.log10(abs(value)))
        digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{in_short(value / 10**exponent)} × 10{digits}"
    text = f"{float(f'{value:.3g}'):,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace("-", "−")


def _plate(
    pixels: np.ndarray, title: str, alt: str, bar: ColourBar | None, length: ScaleBar | None, note: str
) -> Plate:
    height, width = pixels.shape[:2]
    return Plate(title, as_address(pixels), alt, width, height, bar, length, note)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} × {image.shape[0]}"


def _length(pixel_size_m: float | None, width: int) -> ScaleBar | None:
    """The scale bar of an image; in pixels where nothing else is known."""
    if pixel_size_m is not None:
        length, name = scale_bar(pixel_size_m, width)
    else:
        length = max(1.0, round_number(0.25 * width))
        name = f"{length:.0f} px"
    return ScaleBar(100 * length / width, name)


def _canvas(shape: tuple[int, int]) -> tuple[Figure, Any]:
    """A transparent figure whose axes are the pixels of an image of `shape`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = shape
    zoom = DRAWN_PX / max(shape)
    figure = Figure(figsize=(max(1, columns * zoom) / DPI, max(1, rows * zoom) / DPI), dpi=DPI, facecolor="none")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), autoscale_on=False)
    return figure, axes


def _pixels(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.array(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
