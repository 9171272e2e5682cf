"""Figures of the history of a refinement and of the effect of denoising."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_torch.report.images import draw, object_panels, save
from ptycho_torch.types import Reconstruction

if TYPE_CHECKING:
    from matplotlib.figure import Figure


REMOVED_PX = 420
"""Longest side of each image of `denoising.png`."""


def draw_refinement(reconstruction: Reconstruction) -> Figure:
    """The held-out misfit over the sweeps of a refinement and, where positions are refined, their changes."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    history: dict[str, Any] = reconstruction.scores["refinement"]
    given, positions = reconstruction.given_positions, reconstruction.positions
    moved = given is not None and not np.array_equal(given, positions)
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
        drift = positions - given
        axes[1].plot(given[:, 1], given[:, 0], ".", color="0.6", markersize=3, label="given")
        axes[1].quiver(
            given[:, 1], given[:, 0], drift[:, 1], drift[:, 0], angles="xy", scale_units="xy", scale=1, width=0.003
        )
        axes[1].set(xlabel="x [px]", ylabel="y [px]", aspect="equal")
        axes[1].invert_yaxis()
        axes[1].legend(loc="upper right")
    return figure


def write_refinement(folder: Path, reconstruction: Reconstruction) -> Figure:
    """`refinement.png` in `folder`; returns the figure."""
    figure = draw_refinement(reconstruction)
    save(figure, folder / "refinement.png")
    return figure


def draw_denoising(reconstruction: Reconstruction) -> Figure:
    """The phase of the maximum-likelihood object, that of the denoised one, and their difference."""
    assert reconstruction.undenoised is not None
    found = object_panels(replace(reconstruction, object=reconstruction.undenoised))[1]
    left = object_panels(reconstruction)[1]
    turned = np.exp(1j * np.angle(reconstruction.undenoised * reconstruction.object.conj()))
    taken = object_panels(replace(reconstruction, object=turned.astype(np.complex64)))[1]
    labels = ("maximum likelihood [rad]", "denoised [rad]", "removed [rad]")
    panels = [replace(panel, label=label) for panel, label in zip((found, left, taken), labels, strict=True)]
    return draw([panels[0], replace(panels[1], limits=panels[0].limits), panels[2]], side_px=REMOVED_PX)


def write_denoising(folder: Path, reconstruction: Reconstruction) -> Figure:
    """`denoising.png` in `folder`; returns the figure."""
    figure = draw_denoising(reconstruction)
    save(figure, folder / "denoising.png")
    return figure
