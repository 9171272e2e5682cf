"""The thin adapter between the model and pytorch-lightning."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ptycho_torch.data.region import Region
from ptycho_torch.model import PtychoModel

SCALE_LEARNING_RATE = 0.05
"""The intensity scale is one number in logarithms: it can take larger steps than weights."""


class LightningPtycho(pl.LightningModule):
    """Trains a `PtychoModel` on regions by its own likelihood.

    `likelihood` and `tv_weight` are those of `PtychoModel.loss`; `schedule` names a learning-rate schedule, its peak
    the `learning_rate`; the Adaptive one watches `monitored`. `calibrated_log_scale` is ln s of a probe in √photons.
    A checkpoint says by `scan_digest` which scan it has seen.
    """

    def __init__(
        self,
        model: PtychoModel,
        *,
        likelihood: str = "poisson",
        tv_weight: float = 0.0,
        learning_rate: float = 1e-3,
        schedule: str = "WarmupCosine",
        monitored: str = "val_loss",
        calibrated_log_scale: float | None = None,
        scan_digest: str = "",
    ) -> None:
        super().__init__()
        self.model, self.likelihood, self.tv_weight = model, likelihood, tv_weight
        self.learning_rate, self.schedule, self.monitored = learning_rate, schedule, monitored
        self.calibrated_log_scale, self.scan_digest = calibrated_log_scale, scan_digest

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["scan"] = self.scan_digest

    def training_step(self, region: Region, _: int) -> Tensor:
        terms = self.model.loss(
            region,
            likelihood=self.likelihood,
            tv_weight=self.tv_weight,
            calibrated_log_scale=self.calibrated_log_scale,
        )
        self.log("train_loss", terms["likelihood"].float(), on_step=False, on_epoch=True, batch_size=len(region))
        return terms["loss"]

    def validation_step(self, region: Region, _: int) -> None:
        likelihood = self.model.loss(region, likelihood=self.likelihood)["likelihood"]
        self.log("val_loss", likelihood.float(), on_step=False, on_epoch=True, batch_size=len(region))

    def transfer_batch_to_device(self, batch: Region, device: torch.device, _: int) -> Region:
        return batch.to(device)

    def configure_optimizers(self) -> Any:
        weights = [p for p in self.model.network.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": weights, "lr": self.learning_rate, "weight_decay": 1e-4}]
        if self.model.log_scale.requires_grad:
            groups.append({"params": [self.model.log_scale], "lr": SCALE_LEARNING_RATE, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        return {
            "optimizer": optimizer,
            "lr_scheduler": _schedule(self.schedule, optimizer, steps, monitored=self.monitored),
        }


def _schedule(name: str, optimizer: torch.optim.Optimizer, steps: int, *, monitored: str) -> dict[str, Any]:
    schedulers = torch.optim.lr_scheduler
    if name == "Adaptive":
        plateau = schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=5)
        return {"scheduler": plateau, "interval": "epoch", "monitor": monitored}
    if name == "Exponential":
        return {"scheduler": schedulers.ExponentialLR(optimizer, gamma=0.01 ** (1 / steps)), "interval": "step"}
    if name == "MultiStage":
        milestones = [int(steps * part) for part in (0.5, 0.75, 0.9)]
        return {"scheduler": schedulers.MultiStepLR(optimizer, milestones, gamma=0.3), "interval": "step"}
    if name == "Constant":
        return {"scheduler": schedulers.ConstantLR(optimizer, factor=1.0), "interval": "step"}
    return warm_up_and_cosine(optimizer, steps)


def warm_up_and_cosine(optimizer: torch.optim.Optimizer, steps: int, *, longest_rise: int = 50) -> dict[str, Any]:
    """A short linear rise, then half a cosine down to a hundredth, stepped after every batch."""
    warm_up = min(longest_rise, max(1, steps // 10))

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warm_up)
        return rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))

    return {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}


def accelerator_of(device: torch.device) -> str:
    """The trainer's name for a device."""
    return {"cuda": "gpu"}.get(device.type, device.type)


def keep_quiet() -> None:
    """Silences the tips and warnings of the trainer; this package reports what matters."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for module in ("pytorch_lightning", "lightning_fabric"):
        warnings.filterwarnings("ignore", module=module)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch.optim.lr_scheduler")
