"""Images with exact pixels, a colour bar with its unit and a scale bar, drawn with matplotlib's object interface."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_torch.files import atomic_path
from ptycho_torch.report.display import colour_limits, for_display, least_range
from ptycho_torch.types import Reconstruction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
SIDE_PX = 960
"""Longest side of an image on paper; a smaller one is enlarged by a whole factor."""
MOST_PX = 2400
"""A longer image is shown smaller than it is."""
EDGE_PX, BAR_PX, BAR_GAP_PX = 30, 26, 20
BAR_LENGTH_PX = 360
"""The least length of an upright colour bar, which its label needs, and so of an image beside it."""
TICKS_PX, LABEL_PX = 78, 36
WIDE = 1.6
"""An image wider than this for its height has its colour bar below."""
UNSEEN_COLOUR = "#dde3ea"
INK = "#20262e"
AMPLITUDE_COLOURS, PHASE_COLOURS, LIGHT_COLOURS = "gray", "gray", "viridis"


@dataclass(frozen=True, eq=False)
class Panel:
    """An image with its range, its unit, and its scale or place."""

    image: np.ndarray  # [h, w], NaN = nothing known there
    limits: tuple[float, float]
    label: str  # quantity and unit, at the colour bar
    colours: str = AMPLITUDE_COLOURS
    pixel_size_m: float | None = None  # given: a scale bar
    corner: tuple[int, int] | None = None  # (y, x) of image[0, 0]; given: axes in object pixels


def write_images(output_dir: str | Path, reconstruction: Reconstruction) -> None:
    """`reconstructed_amplitude.png` and `reconstructed_phase.png` of the illuminated part of the object."""
    for name, panel in zip(("amplitude", "phase"), object_panels(reconstruction), strict=True):
        save(draw([panel]), Path(output_dir) / f"reconstructed_{name}.png")


def object_panels(reconstruction: Reconstruction) -> tuple[Panel, Panel]:
    """The amplitude and the phase of an object, ready to be drawn; without a pixel size the axes count pixels."""
    amplitude, phase, box = for_display(reconstruction.object, reconstruction.weight)
    light = np.where(np.isfinite(amplitude), np.maximum(reconstruction.weight[box], np.finfo(np.float32).tiny), 0.0)
    size = reconstruction.pixel_size_m
    y, x = reconstruction.origin
    corner = (y + box[0].start, x + box[1].start) if size is None else None

    def panel(image: np.ndarray, photons: np.ndarray, label: str, colours: str) -> Panel:
        limits = colour_limits(image, light, least=least_range(photons))
        return Panel(image, limits, label, colours, size, corner)

    return (
        panel(amplitude, light, amplitude_label(reconstruction), AMPLITUDE_COLOURS),
        panel(phase, light * amplitude**2, "phase [rad]", PHASE_COLOURS),
    )


def amplitude_label(reconstruction: Reconstruction) -> str:
    """What the amplitude is: a transmission, where the probe is in √photons."""
    return f"amplitude ({'arbitrary units' if reconstruction.has_arbitrary_amplitude else 'transmission'})"


def draw(panels: Sequence[Panel], *, title: str = "", side_px: int = SIDE_PX) -> Figure:
    """A figure of images side by side, their longest sides about `side_px` pixels, each image pixel equally large."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places, width, height = [], 0, 0
    for panel in panels:
        place = _Place.of(panel, side_px)
        places.append((place, width))
        width, height = width + place.total[0], max(height, place.total[1])
    head = 56 if title else 0
    if title:
        width = max(width, 2 * EDGE_PX + 13 * len(title))
    figure = Figure(figsize=(width / DPI, (height + head) / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        top = 1 - EDGE_PX / (height + head)
        figure.text(EDGE_PX / width, top, title, ha="left", va="top", color=INK, fontsize=11)
    for panel, (place, left) in zip(panels, places, strict=True):
        _draw_panel(figure, panel, place, left)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """The figure as a PNG file, the same bytes every time."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(as_png(figure))


def as_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, metadata={"Software": None})
    return buffer.getvalue()


def montage(images: np.ndarray, *, gap: int = 2) -> np.ndarray:
    """Images [k, h, w] on a nearly square grid, row by row, NaN between them and in empty places."""
    count, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), np.nan)
    for index, image in enumerate(images):
        y, x = (index // columns) * (height + gap), (index % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


def scale_bar(pixel_size_m: float, width_px: int) -> tuple[float, str]:
    """Length [object px] and name of the longest bar of 1, 2 or 5 · 10ⁿ metres within a quarter of the width."""
    length = round_number(0.25 * width_px * pixel_size_m)
    for unit, name in ((1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm"), (1e-12, "pm")):
        if length >= unit * (1 - 1e-9) or name == "pm":
            break
    return length / pixel_size_m, f"{length / unit:.6g} {name}"


def round_number(most: float) -> float:
    """The largest of the numbers 1, 2 and 5 · 10ⁿ that is not above `most`."""
    decade = math.floor(math.log10(most) + 1e-12)
    return max(digit * 10.0**decade for digit in (1, 2, 5) if digit == 1 or digit * 10.0**decade <= most * (1 + 1e-9))


# --- layout, in pixels of the image -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where the parts of a panel lie; all in pixels of the image, from its lower left corner."""

    image: tuple[int, int, int, int]  # left, bottom, width, height
    bar: tuple[int, int, int, int]
    total: tuple[int, int]  # width, height
    wide: bool
    zoom: float

    @classmethod
    def of(cls, panel: Panel, side_px: int) -> _Place:
        rows, columns = panel.image.shape
        longest = max(rows, columns)
        zoom = max(side_px // longest, -(-BAR_LENGTH_PX // longest)) if longest <= MOST_PX else MOST_PX / longest
        width, height = max(1, round(columns * zoom)), max(1, round(rows * zoom))
        ticks = panel.corner is not None
        left = EDGE_PX + (TICKS_PX + LABEL_PX if ticks else 0)
        below = TICKS_PX if ticks else 60 if panel.pixel_size_m is not None else 0
        wide = width > WIDE * height
        if wide:
            bar_bottom = EDGE_PX + 2 * LABEL_PX
            bottom = bar_bottom + BAR_PX + BAR_GAP_PX + below
            width_of_bar = max(width, 420)
            bar = (left, bar_bottom, width_of_bar, BAR_PX)
            total = (left + width_of_bar + 2 * EDGE_PX, bottom + height + EDGE_PX)
        else:
            bottom = EDGE_PX + below
            height_of_bar = max(height, BAR_LENGTH_PX)
            bar = (left + width + BAR_GAP_PX, bottom, BAR_PX, height_of_bar)
            right = BAR_GAP_PX + BAR_PX + TICKS_PX + LABEL_PX + EDGE_PX
            total = (max(left + width + right, 420), bottom + height_of_bar + EDGE_PX)
        return cls((left, bottom, width, height), bar, total, wide, zoom)


def _draw_panel(figure: Figure, panel: Panel, place: _Place, left: int) -> None:
    axes = _axes(figure, place.image, left)
    rows, columns = panel.image.shape
    y, x = panel.corner or (0, 0)
    shown: Any = axes.imshow(
        np.ma.masked_invalid(panel.image),
        cmap=_colours(panel.colours),
        vmin=panel.limits[0],
        vmax=panel.limits[1],
        interpolation="nearest" if place.zoom >= 1 else "antialiased",
        extent=(x - 0.5, x + columns - 0.5, y + rows - 0.5, y - 0.5),
        aspect="auto",
    )
    if panel.corner is None:
        axes.set(xticks=[], yticks=[])
    else:
        _count_pixels(axes, place)
    if panel.pixel_size_m is not None:
        _draw_scale_bar(axes, panel.pixel_size_m, place)
    _draw_colour_bar(figure, shown, panel, place, left)


def _axes(figure: Figure, box: tuple[int, int, int, int], left: int) -> Axes:
    width, height = figure.get_size_inches() * figure.dpi
    axes = figure.add_axes(((left + box[0]) / width, box[1] / height, box[2] / width, box[3] / height))
    axes.tick_params(colors=INK, labelsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _colours(name: str) -> Any:
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=UNSEEN_COLOUR)


def _count_pixels(axes: Axes, place: _Place) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis, length in ((axes.xaxis, place.image[2]), (axes.yaxis, place.image[3])):
        axis.set_major_locator(MaxNLocator(nbins=max(1, length // 130), integer=True))
        axis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_xlabel("x [px]", color=INK, fontsize=9)
    axes.set_ylabel("y [px]", color=INK, fontsize=9)


def _draw_scale_bar(axes: Axes, pixel_size_m: float, place: _Place) -> None:
    from matplotlib.patches import Rectangle

    length, name = scale_bar(pixel_size_m, round(place.image[2] / place.zoom))
    width, height = place.image[2:]
    end = length * place.zoom / width
    bar = Rectangle((0, -32 / height), end, 9 / height, transform=axes.transAxes, clip_on=False, color=INK, lw=0)
    bar.set_gid("scale bar")
    axes.add_patch(bar)
    axes.text(end + 14 / width, -28 / height, name, transform=axes.transAxes, va="center", color=INK, fontsize=10)


def _draw_colour_bar(figure: Figure, shown: Any, panel: Panel, place: _Place, left: int) -> None:
    from matplotlib.ticker import MaxNLocator

    along = "horizontal" if place.wide else "vertical"
    axes = _axes(figure, place.bar, left)
    length = max(place.bar[2:])
    bar = figure.colorbar(shown, cax=axes, orientation=along, ticks=MaxNLocator(nbins=max(2, length // 130)))
    bar.outline.set(edgecolor=UNSEEN_COLOUR, linewidth=0.8, visible=True)
    bar.ax.tick_params(colors=INK, labelsize=9, width=0.8, length=3)
    bar.set_label(panel.label, color=INK, fontsize=10)
