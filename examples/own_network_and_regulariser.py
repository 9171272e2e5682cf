# %% [markdown]
# # Your own network, and your own regulariser
# Both are passed as objects. A network is any module that maps a region, patterns on their common canvas, to an object
# on this canvas; a regulariser is any object with a proximal step.

# %%
import torch
from torch import Tensor, nn

import ptycho_torch as pt

scan = pt.simulate(n=32, positions=100, step_px=5, photons=1e3, seed=3)


# %% [markdown]
# This network has one weight: it descends the likelihood from a flat object. `region.forward` is the forward model;
# `region.batches()` are the patterns, each with the probe at its position.


# %%
class Descent(nn.Module):
    """A few steps of steepest descent, each divided by the illumination."""

    def __init__(self, steps: int = 10) -> None:
        super().__init__()
        self.steps, self.step = steps, nn.Parameter(torch.tensor(0.5))

    def forward(self, region: pt.Region) -> Tensor:
        """The object on the canvas of the region, complex `[H, W]`, transmission."""
        obj = region.uniform_object()
        light = region.illumination()
        for _ in range(self.steps):
            gradient = torch.zeros_like(obj)
            for batch in region.batches():
                gradient += region.forward.gradient(obj, batch, batch.amplitude, batch.valid)
            obj = obj + self.step * gradient / (light + 0.1 * light.max())
        return obj


# %% [markdown]
# Few photons leave noise. A regulariser R penalises unlikely objects; here it penalises roughness,
# R(O) = weight · Σ |∇O|². Its proximal step, argmin_x ½ Σ|x − O|² + step · R(x), is a low-pass filter.


# %%
class Smooth:
    """R(O) = weight · Σ |∇O|², on a periodic canvas."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def proximal(self, obj: Tensor, step: float) -> Tensor:
        """x̂ = Ô / (1 + 2 · step · weight · |k|²), with |k|² of finite differences."""
        y, x = (4 * torch.sin(torch.pi * torch.fft.fftfreq(side, device=obj.device)) ** 2 for side in obj.shape)
        return torch.fft.ifft2(torch.fft.fft2(obj) / (1 + 2 * step * self.weight * (y[:, None] + x)))


# %%
network = Descent()
for name, options in {
    "own network": {},
    "and 20 sweeps": {"refine": 20},
    "and 20 sweeps, regularised": {"refine": 20, "regulariser": Smooth(0.01)},
}.items():
    result = pt.reconstruct(scan, model=network, **options)
    scores = result.scores["reference"]
    print(f"{name}: amplitude {scores['amplitude_psnr_db']:.2f} dB, phase {scores['phase_psnr_db']:.2f} dB (PSNR)")

# %%
figure = result.plot()
