"""Where ptychodus looks for what a training has left."""

from __future__ import annotations

from pathlib import Path

CHECKPOINT = "model.ckpt"


def find_best_checkpoint(run_dir: str | Path) -> Path | None:
    """The file that a training through `ptycho_torch.api` wrote into its folder; None where there is none."""
    found = Path(run_dir) / CHECKPOINT
    return found if found.is_file() else None
