"""Measured patterns beside their predictions, and the difference in units of photon noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ptycho_torch.report.images import Panel
from ptycho_torch.report.plates import Plate, image_plate, in_short
from ptycho_torch.types import Examples

COUNT_COLOURS, DIFFERENCE_COLOURS = "magma", "RdBu_r"
MASKED = "#8c959f"
"""The grey of pixels that were not measured."""
MOST_SHOWN = 0.995
"""Quantile of the differences at which their colours end."""
NOISE_OF_ROOT = 0.5
"""Standard deviation of √n for Poisson counts n, apart from the smallest counts."""


def pattern_rows(examples: Examples) -> Iterator[tuple[str, list[Plate]]]:
    """For each example its name and the plates measured, predicted, and difference.

    Counts are shown as log(1 + n), measured and predicted in one range.
    """
    for name, *arrays in zip(examples.names, examples.measured, examples.predicted, examples.valid, strict=True):
        measured, predicted, valid = arrays
        limits = (0.0, float(np.log1p(max(measured[valid].max(initial=0), predicted[valid].max(initial=0)))) or 1.0)
        ends = ("0", in_short(float(np.expm1(limits[1]))))
        plates = [
            image_plate(
                Panel(np.where(valid, np.log1p(np.maximum(counts, 0)), np.nan), limits, "", COUNT_COLOURS),
                what,
                ends=ends,
                bad=MASKED,
                has_length=False,
            )
            for what, counts in (("Measured", measured), ("Predicted", predicted))
        ]
        found = np.where(valid, difference(measured, predicted), np.nan)
        most = most_shown(found)
        panel = Panel(found, (-most, most), "", DIFFERENCE_COLOURS)
        yield name, [*plates, image_plate(panel, "Difference", unit="σ", bad=MASKED, has_length=False)]


def difference(measured: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(√n − √λ) / ½ of counts n and prediction λ [N, N]: in standard deviations of the photon noise of one pattern."""
    return (np.sqrt(np.maximum(measured, 0)) - np.sqrt(np.maximum(predicted, 0))) / NOISE_OF_ROOT


def most_shown(differences: np.ndarray) -> float:
    """The end of the colours on either side: the 99.5th percentile of |difference|, rounded up to one digit."""
    known = np.abs(differences[np.isfinite(differences)])
    most = float(np.quantile(known, MOST_SHOWN)) if known.size else 0.0
    if most <= 0:
        return 1.0
    digit = 10.0 ** np.floor(np.log10(most))
    return float(np.ceil(most / digit - 1e-9) * digit)
