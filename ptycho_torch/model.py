"""A network with its intensity scale and the forward model: object → patches → exit waves → counts, and the loss."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ptycho_torch.data.region import Batch, Region
from ptycho_torch.physics.likelihood import LOSSES, total_variation
from ptycho_torch.scale import gauge_prior

PRIOR_WEIGHT = 0.1


class PtychoPINN_Lightning:
    """The name under which ptychodus holds a trained network: the file that keeps it, read when it is used."""

    loss_name, val_loss_name = "train_loss", "val_loss"

    def __init__(self, checkpoint: str | Path | None = None) -> None:
        self.checkpoint = None if checkpoint is None else Path(checkpoint)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, **_: object) -> PtychoPINN_Lightning:
        """The network in this file; what it was trained with stands in the file itself."""
        return cls(checkpoint_path)


class PtychoModel(nn.Module):
    """A network, the intensity scale and the forward model.

    Regions carry the probe in √photons under the initial `scale` s₀ of the model. Under the learned scale s the
    probe is s/s₀ times that, and the network's object s₀/s times: doubling s halves the object.
    """

    def __init__(self, network: nn.Module, *, scale: float, learn_scale: bool = False) -> None:
        super().__init__()
        self.network = network
        self.first_log_scale = math.log(scale)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale), dtype=torch.float64), requires_grad=learn_scale)

    def forward(self, region: Region) -> Tensor:
        """The object of a region on its canvas, complex64 `[H, W]`, transmission."""
        return self.network(region) / self._probe_factor()

    def counts(self, obj: Tensor, batch: Batch, region: Region) -> Tensor:
        """Expected counts `[b, N, N]` [photons] of the patterns of a batch for an object `[H, W]` on its canvas."""
        patches = region.forward.patches(obj, batch)
        return region.forward.counts_behind(patches, batch.probe * self._probe_factor())

    def _probe_factor(self) -> Tensor:
        """s/s₀, one where the scale is not learned."""
        return (self.log_scale - self.first_log_scale).exp().float()

    def loss(
        self,
        region: Region,
        *,
        likelihood: str = "poisson",
        tv_weight: float = 0.0,
        calibrated_log_scale: float | None = None,
    ) -> dict[str, Tensor]:
        """Terms of the objective on a region: `likelihood`, `prior` of the gauge, and their `loss`."""
        obj = self(region)
        fits = []
        for batch in region.batches():
            predicted = self.counts(obj, batch, region)
            fits.append(LOSSES[likelihood](predicted, batch.amplitude.square(), batch.valid) * len(predicted))
        fit = torch.stack(fits).sum() / len(region)
        light = region.illumination()
        mean_square = (light * (obj.real.square() + obj.imag.square())).sum() / light.sum()
        prior = gauge_prior(self.log_scale, mean_square=mean_square, calibrated_log_scale=calibrated_log_scale)
        loss = fit + PRIOR_WEIGHT * prior
        if tv_weight > 0:
            loss = loss + tv_weight * total_variation(obj)
        return {"loss": loss.float(), "likelihood": fit.detach(), "prior": prior.detach()}
