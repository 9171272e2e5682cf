"""`pretrain`: the network that reconstructs scans it has never seen, learned from simulated ones with known truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ptycho_torch.bundle.pretrained import write_pretrained
from ptycho_torch.config import PretrainConfig
from ptycho_torch.data.loader import Region, handy_subsets
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.simulation.variety import random_scan
from ptycho_torch.devices import resolve_device, use_available_threads
from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.networks import build_network
from ptycho_torch.training.callbacks import GracefulStop, LastCheckpoint, Progress
from ptycho_torch.training.lightning import warm_up_and_cosine

EPOCH = 50
"""Scans between two checkpoints."""
LIT = 0.3
"""Object pixels with this fraction of the largest illumination, or more, count fully."""
GOOD_ENOUGH = 2e-4
"""Relative square error below which a network is not needed: sweeps alone go on from there."""
HOPELESS = 0.4
"""Relative square error above which a scan only confuses: too little light or overlap for anything to be seen."""
SCANS_A_STEP = 2


def pretrain(config: PretrainConfig) -> Path:
    """Train on `config.scans` simulated scans and write the weights; returns their path."""
    device = resolve_device(config.accelerator, config.device)
    use_available_threads()
    folder = config.output_dir
    last = folder / "checkpoints" / "last.ckpt"
    if config.resume and not last.is_file():
        raise UsageError(f"--resume: there is no checkpoint {last}; leave --resume out to start afresh")
    options = {"stages": config.stages, "sweeps": config.sweeps, "width": config.network_width}
    torch.manual_seed(config.seed)
    network = build_network("unrolled", n=64, group_size=1, **options)
    module = Pretraining(network, learning_rate=config.learning_rate)
    try:
        last.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output_dir {folder}: it can't be written ({error.strerror}); choose another") from None
    epochs = -(-config.scans // EPOCH)
    trainer = pl.Trainer(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=1,
        max_epochs=epochs,
        gradient_clip_val=1.0,
        accumulate_grad_batches=SCANS_A_STEP,
        callbacks=[LastCheckpoint(last), GracefulStop(), *([] if config.quiet else [Progress()])],
        logger=pl.loggers.CSVLogger(folder, name="logs", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
    )
    scans = SimulatedRegions(config.seed)
    if config.resume:
        scans.epoch = torch.load(last, map_location="cpu", weights_only=True)["epoch"] + 1
    loader = DataLoader(scans, batch_size=None)
    trainer.fit(module, loader, ckpt_path=last if config.resume else None, weights_only=True)
    recipe = {"scans": config.scans, "seed": config.seed, "learning_rate": config.learning_rate}
    return write_pretrained(folder / "pretrained.safetensors", network.state_dict(), options=options, recipe=recipe)


class SimulatedRegions(IterableDataset[tuple[Region, Tensor]]):
    """Endless epochs of `EPOCH` simulated scans, each fixed by seed, epoch and number: a region and its true object."""

    def __init__(self, seed: int) -> None:
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return EPOCH

    def __iter__(self) -> Iterator[tuple[Region, Tensor]]:
        for number in range(EPOCH):
            yield _simulated(self.seed, self.epoch, number)
        self.epoch += 1


def _simulated(seed: int, epoch: int, number: int) -> tuple[Region, Tensor]:
    rng = np.random.default_rng([seed, epoch, number])
    while True:
        made = random_scan(rng)
        try:
            scan = Scan.from_arrays(made.amplitude, made.positions, probe=made.probe, domain="amplitude", obj=made.obj)
            return as_region(scan)
        except DataError:  # a pattern without a photon, or a stop outside: nobody keeps such a scan
            continue


def as_region(scan: Scan) -> tuple[Region, Tensor]:
    """All patterns of a scan with a known object, and this object on their canvas, in the region's unit."""
    assert scan.obj is not None
    probe = torch.from_numpy(scan.probe)
    region = Region(scan, np.arange(len(scan)), probe, subsets=handy_subsets(scan.positions, probe)).loaded()
    truth = torch.ones(region.shape, dtype=torch.complex64)
    (y, x), (height, width) = region.origin, region.extent
    truth[:height, :width] = torch.from_numpy(scan.obj[y : y + height, x : x + width])
    return region, truth / region.level


def relative_error(obj: Tensor, truth: Tensor, illumination: Tensor) -> Tensor:
    """Σ w |e^{iφ}O − T|² / Σ w |T|² with the best global phase φ; w = min(1, I / (0.3 max I))."""
    weight = (illumination / (LIT * illumination.max())).clamp(max=1)
    overlap = (weight * obj.conj() * truth).sum()
    power = (weight * truth.abs().square()).sum()
    return ((weight * obj.abs().square()).sum() + power - 2 * overlap.abs()) / power


class Pretraining(pl.LightningModule):
    """Least squares against the truth, in decibels, so that every dose counts the same."""

    def __init__(self, network: torch.nn.Module, *, learning_rate: float) -> None:
        super().__init__()
        self.network, self.learning_rate = network, learning_rate

    def training_step(self, batch: tuple[Region, Tensor], _: int) -> Tensor:
        region, truth = batch
        error = relative_error(self.network(region), truth, region.illumination())
        if float(error.detach()) > HOPELESS:
            error = HOPELESS + 0 * error
        loss = (error + GOOD_ENOUGH).log()
        self.log("loss", loss, on_step=True, batch_size=1)
        self.log("log10_photons", float(np.log10(region.photons)), on_step=True, batch_size=1)
        return loss

    def transfer_batch_to_device(self, batch: Any, device: torch.device, _: int) -> Any:
        return batch[0].to(device), batch[1].to(device)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate, weight_decay=1e-4)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": warm_up_and_cosine(optimizer, steps)}
