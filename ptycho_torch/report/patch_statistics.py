"""Statistics of predicted object patches, in the same unit in training and inference, and a dump for debugging."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_torch.files import atomic_path, write_json
from ptycho_torch.metrics import is_lit
from ptycho_torch.report.display import bounding_box, colour_limits, illuminated_object, levelled
from ptycho_torch.report.images import AMPLITUDE_COLOURS, PHASE_COLOURS, Panel, draw, montage, save
from ptycho_torch.types import Reconstruction

PATCHES_NAMED = 4
PATCHES_SHOWN = 16


def illuminated_pixels(probe: np.ndarray) -> np.ndarray:
    """Patch pixels that the probe [mode, N, N] lights: Σ_mode |P|² ≥ 5 % of its largest value; bool [N, N]."""
    return is_lit((np.abs(probe).astype(np.float64) ** 2).sum(axis=0))


def patch_statistics(patches: np.ndarray, illuminated: np.ndarray, *, phase: str, batch_idx: int) -> dict[str, Any]:
    """Statistics of |patches| [b, N, N] over the illuminated pixels.

    global_mean and global_std are over the whole batch; var_zero_mean = mean((|patch| − its own mean)²) is the
    contrast inside patches, zero for a flat object.
    """
    amplitude = _amplitudes(patches, illuminated)
    named = [{"patch_idx": index, **_spread(values)} for index, values in enumerate(amplitude[:PATCHES_NAMED])]
    return {
        "phase": phase,
        "batch_idx": batch_idx,
        "batch_size": len(patches),
        "global_mean": float(amplitude.mean()),
        "global_std": float(amplitude.std()),
        "var_zero_mean": _contrast(amplitude),
        "per_patch": named,
    }


def log_line(stats: dict[str, Any]) -> str:
    """The line by which `--log-patch-stats` reports a batch."""
    return (
        f"Torch patch stats ({stats['phase']} batch {stats['batch_idx']}): mean={stats['global_mean']:.6f} "
        f"std={stats['global_std']:.6f} var_zero_mean={stats['var_zero_mean']:.6f}"
    )


class StatisticsRecorder:
    """Gathers the statistics of at most `limit` batches (None: all, 0: none) and the first patches, for a figure."""

    def __init__(self, phase: str, illuminated: np.ndarray, *, limit: int | None = None) -> None:
        self.phase, self.illuminated, self.limit = phase, illuminated, limit
        self.entries: list[dict[str, Any]] = []
        self._shown: list[np.ndarray] = []

    @property
    def full(self) -> bool:
        """Whether as many batches were recorded as were asked for."""
        return self.limit is not None and len(self.entries) >= self.limit

    def add(self, patches: np.ndarray) -> str:
        """Record a batch of patches [b, N, N]; returns its log line. Raises ValueError when the recorder is full."""
        if self.full:
            raise ValueError(f"{self.limit} batches were asked for and are recorded")
        stats = patch_statistics(patches, self.illuminated, phase=self.phase, batch_idx=len(self.entries))
        self.entries.append(stats)
        room = PATCHES_SHOWN - sum(map(len, self._shown))
        if room > 0:
            self._shown.append(patches[:room].copy())
        return log_line(stats)

    def write(self, directory: str | Path) -> None:
        """`analysis/torch_patch_stats.json` and `analysis/torch_patch_grid.png` in the directory.

        The entries take the place of those of the same phase in the file; those of the other phase stay.
        """
        folder = Path(directory) / "analysis"
        path = folder / "torch_patch_stats.json"
        write_json(path, [entry for entry in _entries(path) if entry["phase"] != self.phase] + self.entries)
        if self._shown:
            _draw_patches(np.concatenate(self._shown), self.illuminated, phase=self.phase, folder=folder)


def write_debug_dump(
    directory: str | Path,
    *,
    patches: np.ndarray,
    positions: np.ndarray,
    reconstruction: Reconstruction,
    illuminated: np.ndarray | None = None,
) -> None:
    """Patches, their positions and the canvas, for debugging: four files to read and `patches.npz`.

    `pred_patches_amp_grid.png`, `offsets.json`, `stats.json`, `canvas.json`. Offsets are the positions [b, 2] (y, x)
    of the patches minus their mean [object px]. Statistics are over lit pixels: of patches those in
    `illuminated` [N, N] (default: all), of the canvas those with 5 % of the largest illumination.
    """
    if len(patches) != len(positions):
        raise ValueError(f"{len(patches)} patches but {len(positions)} positions")
    folder, size = Path(directory), patches.shape[-1]
    lit = np.ones((size, size), bool) if illuminated is None else illuminated
    positions = np.asarray(positions, np.float64)
    offsets = positions - positions.mean(axis=0)
    seen = illuminated_object(reconstruction.object, reconstruction.weight)
    write_json(folder / "offsets.json", _offset_facts(offsets))
    write_json(
        folder / "stats.json",
        {
            "patch_amplitude": _spread_and_contrast(_amplitudes(patches, lit)),
            "canvas_amplitude": _spread_and_contrast(_amplitudes(reconstruction.object[None], seen)),
        },
    )
    write_json(
        folder / "canvas.json",
        {
            "patch_size": size,
            "canvas_size": list(reconstruction.object.shape),
            "n_patches": len(patches),
            "max_abs_dx": float(np.abs(offsets[:, 1]).max()),
            "max_abs_dy": float(np.abs(offsets[:, 0]).max()),
            "origin": list(reconstruction.origin),
        },
    )
    with atomic_path(folder / "patches.npz") as temporary:
        np.savez(temporary, patches=patches.astype(np.complex64), offsets=offsets, positions=positions)
    save(draw([_amplitude_panel(patches[:PATCHES_SHOWN], lit)]), folder / "pred_patches_amp_grid.png")


def _amplitudes(patches: np.ndarray, lit: np.ndarray) -> np.ndarray:
    return np.abs(patches[:, lit]).astype(np.float64)


def _spread(values: np.ndarray) -> dict[str, float]:
    return {name: float(getattr(values, name)()) for name in ("mean", "std", "min", "max")}


def _contrast(amplitude: np.ndarray) -> float:
    return float(np.mean((amplitude - amplitude.mean(axis=1, keepdims=True)) ** 2))


def _spread_and_contrast(amplitude: np.ndarray) -> dict[str, float]:
    return {**_spread(amplitude), "var_zero_mean": _contrast(amplitude)}


def _offset_facts(offsets: np.ndarray) -> dict[str, Any]:
    dy, dx = offsets.T
    return {
        "count": len(offsets),
        "first_offsets": [{"dx": float(x), "dy": float(y)} for y, x in offsets[:PATCHES_SHOWN]],
        "mean_dx": float(dx.mean()),
        "mean_dy": float(dy.mean()),
        "std_dx": float(dx.std()),
        "std_dy": float(dy.std()),
    }


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return [entry for entry in found if isinstance(entry, dict) and "phase" in entry] if isinstance(found, list) else []


def _draw_patches(patches: np.ndarray, lit: np.ndarray, *, phase: str, folder: Path) -> None:
    level = np.stack([np.angle(levelled(patch.astype(np.complex128), lit.astype(np.float64))) for patch in patches])
    panels = [_amplitude_panel(patches, lit), _sheet(level, lit, "phase, each patch levelled [rad]", PHASE_COLOURS)]
    title = f"Predicted patches, {phase}: the first {len(patches)}"
    save(draw(panels, title=title, side_px=800), folder / "torch_patch_grid.png")


def _amplitude_panel(patches: np.ndarray, lit: np.ndarray) -> Panel:
    return _sheet(np.abs(patches), lit, "amplitude (transmission)", AMPLITUDE_COLOURS)


def _sheet(images: np.ndarray, lit: np.ndarray, label: str, colours: str) -> Panel:
    rows, columns = bounding_box(lit)
    sheet = montage(np.where(lit, images, np.nan)[:, rows, columns])
    return Panel(sheet, colour_limits(sheet, np.ones(sheet.shape)), label, colours)
