"""Figures of the history of a refinement and of the effect of denoising."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_torch.report.images import Panel, draw, object_panels, save
from ptycho_torch.report.plates import draw_moves, magnification
from ptycho_torch.types import Reconstruction

if TYPE_CHECKING:
    from matplotlib.figure import Figure


REMOVED_PX = 420
"""Longest side of each image of `denoising.png`."""
ROUNDING_PX = 1e-6
"""Positions that differ by less have not moved: float64 rounds positions of 1e6 px to 1e-10 px."""


def write_steps(folder: Path, reconstruction: Reconstruction) -> None:
    """`refinement.png` and `denoising.png`, each where its step happened; what an earlier run left is removed."""
    steps: tuple[tuple[str, bool, Callable[[Reconstruction], Figure]], ...] = (
        ("refinement.png", "refinement" in reconstruction.scores, draw_refinement),
        ("denoising.png", reconstruction.undenoised is not None, draw_denoising),
    )
    for name, happened, drawn in steps:
        path = folder / name
        if happened:
            save(drawn(reconstruction), path)
        elif path.is_file() or path.is_symlink():
            path.unlink()


def draw_refinement(reconstruction: Reconstruction) -> Figure:
    """The held-out misfit over the sweeps of a refinement and, where positions are refined, their changes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    history: dict[str, Any] = reconstruction.scores["refinement"]
    given, moved = reconstruction.given_positions, has_moved(reconstruction)
    figure = Figure(figsize=(10 if moved else 6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if moved else 1, squeeze=False)[0]
    values = np.array(history["likelihood_per_pixel"])
    gain = np.maximum(values - values.min(), 0)
    lowest = gain[gain > 0].min() if (gain > 0).any() else 1.0
    axes[0].semilogy(np.maximum(gain, lowest / 2), color="black", marker=".")
    for begin in np.cumsum(history["rounds"])[:-1]:
        axes[0].axvline(begin, color="0.8", linewidth=1, linestyle="--")
    axes[0].axvline(history["best_sweep"], color="tab:red", linewidth=1, label="best")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].legend(loc="best")
    axes[0].set(xlabel="sweep", ylabel=f"held-out misfit per pixel, less {values.min():.5g}")
    if moved:
        assert given is not None
        times = magnification(given, reconstruction.positions)
        draw_moves(axes[1], given, reconstruction.positions)
        title = f"moves, arrows {times:.0f} times as long" if times > 1 else "moves"
        axes[1].set(xlabel="x [px]", ylabel="y [px]", aspect="equal", title=title)
        axes[1].invert_yaxis()
        axes[1].legend(loc="upper right")
    return figure


def has_moved(reconstruction: Reconstruction) -> bool:
    """Whether a refinement changed a position."""
    given = reconstruction.given_positions
    return given is not None and not np.allclose(given, reconstruction.positions, rtol=0, atol=ROUNDING_PX)


def draw_denoising(reconstruction: Reconstruction) -> Figure:
    """The phase of the maximum-likelihood object, that of the denoised one, and their difference."""
    labels = ("maximum likelihood [rad]", "denoised [rad]", "removed [rad]")
    panels = denoising_panels(reconstruction)
    return draw([replace(panel, label=label) for panel, label in zip(panels, labels, strict=True)], side_px=REMOVED_PX)


def denoising_panels(reconstruction: Reconstruction) -> tuple[Panel, Panel, Panel]:
    """Phase before denoising and after it, in the same colours, and what was removed."""
    assert reconstruction.undenoised is not None
    before = object_panels(replace(reconstruction, object=reconstruction.undenoised))[1]
    after = object_panels(reconstruction)[1]
    turned = np.exp(1j * np.angle(reconstruction.undenoised * reconstruction.object.conj()))
    removed = object_panels(replace(reconstruction, object=turned.astype(np.complex64)))[1]
    return before, replace(after, limits=before.limits), removed
