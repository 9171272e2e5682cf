"""Two objects beside each other, with their differences and the Fourier ring correlation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.metrics import RingCorrelation, fourier_ring_correlation, phases


def draw_comparison(
    aligned: np.ndarray, truth: np.ndarray, *, path: str | Path, names: tuple[str, str] = ("A", "B")
) -> None:
    """A PNG with amplitude and phase of both, called `names`, their differences, and the Fourier ring correlation."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplot_mosaic([["a", "b", "c", "frc"], ["d", "e", "f", "frc"]], width_ratios=[1, 1, 1, 1.1])
    phase, true_phase = phases(aligned, truth)
    images = (("abc", np.abs(aligned), np.abs(truth), "amplitude"), ("def", phase, true_phase, "phase [rad]"))
    for keys, seen, true, name in images:
        low, high = np.percentile(true, (0.5, 99.5))
        if high <= low:
            low, high = low - 0.5, high + 0.5
        spread = 0.5 * (high - low)
        for key, image, title, limits, colours in (
            (keys[0], seen, f"{names[0]}: {name}", (low, high), "gray"),
            (keys[1], true, f"{names[1]}: {name}", (low, high), "gray"),
            (keys[2], seen - true, f"difference: {name}", (-spread, spread), "RdBu_r"),
        ):
            shown = grid[key].imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
            grid[key].set(title=title, xticks=[], yticks=[])
            figure.colorbar(shown, ax=grid[key], shrink=0.8)
    _draw_rings(grid["frc"], fourier_ring_correlation(aligned, truth))
    figure.savefig(path, dpi=100, format="png", metadata={"Software": None})


def _draw_rings(axes: Any, ring: RingCorrelation) -> None:
    axes.plot(ring.frequency[1:], ring.curve[1:], color="black", label="FRC")
    axes.plot(ring.frequency[1:], ring.half_bit[1:], "--", label=f"half-bit: {ring.half_bit_px:.2f} px half period")
    axes.axhline(1 / 7, linestyle=":", color="C1", label=f"1/7: {ring.one_seventh_px:.2f} px half period")
    axes.set(xlim=(0, 0.5), ylim=(-0.1, 1.05), xlabel="frequency [cycles/px]", title="Fourier ring correlation")
    axes.legend(loc="lower left")
