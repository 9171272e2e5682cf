"""The line that `--quiet` leaves of the output."""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.scale import IntensityScale


def one_line(scale: IntensityScale, model: str, *, misfit: str, results: Path | None = None) -> str:
    """The intensity scale with where it comes from, the model, the misfit in words, and where the results are:

    `intensity_scale: 9.882118 (closed form; bundle model/wts.h5.zip); misfit R 0.0432; results: out`
    """
    parts = [f"intensity_scale: {scale.value:.6f} ({scale.origin}; {model})", misfit]
    return "; ".join([*parts, f"results: {results}"] if results is not None else parts)
