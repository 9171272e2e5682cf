"""`pretrain`: the weights in the package, trained again."""

from __future__ import annotations

import functools
from pathlib import Path

from ptycho_torch.config import PretrainConfig
from ptycho_torch.devices import resolve_device, use_available_threads
from ptycho_torch.training.pretraining import Recipe
from ptycho_torch.training.pretraining import pretrain as train_on_simulated_scans


def pretrain(config: PretrainConfig) -> Path:
    """Train the pretrained networks with these settings; returns the path of the weights."""
    device = resolve_device(config.accelerator, config.device)
    use_available_threads()
    recipe = Recipe(
        scans=config.scans,
        steps=config.steps,
        stages=config.stages,
        sweeps=config.sweeps,
        width=config.network_width,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    say = None if config.quiet else functools.partial(print, flush=True)
    return train_on_simulated_scans(config.output_dir, recipe, device=device, resume=config.resume, say=say)
