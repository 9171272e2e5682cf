"""`pretrain`: training of the pretrained networks on simulated scans with known truth."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ptycho_torch.data.held_out import pick_validation_set
from ptycho_torch.data.region import Region, on_canvas
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import pretrained_subsets, refinement_subsets
from ptycho_torch.errors import DataError, PtychoError, UsageError
from ptycho_torch.networks import build_network
from ptycho_torch.networks.posterior import PosteriorMean
from ptycho_torch.networks.pretrained import Pretrained, read_pretrained, write_pretrained
from ptycho_torch.networks.unrolled import Unrolled
from ptycho_torch.refinement import refine
from ptycho_torch.refinement.denoising import network_input
from ptycho_torch.simulation.truth import as_region, relative_error, turned_to
from ptycho_torch.simulation.variety import random_scan
from ptycho_torch.training.callbacks import GracefulStop, Progress, same_signal_handlers
from ptycho_torch.training.lightning import accelerator_of, keep_quiet, warm_up_and_cosine

FULLY_LIT = 0.3
"""Object pixels with this fraction of the largest illumination, or more, count fully."""
GOOD_ENOUGH, CLEAN_ENOUGH = 2e-5, 2e-4
"""Relative square errors below which a stage (sweeps converge from there) and the posterior mean (faded out at low
noise) are not needed. With a smaller value, high-dose scans drive the output of the posterior mean to zero."""
HOPELESS = 0.4
"""Relative square error above which a scan is left out: dose or overlap are too low to recover anything."""
CROP, CROPS = 64, 8
"""Side [px] of the training crops of a U-Net, and their number per step."""
RISE = 400
"""Largest number of warm-up steps: with fewer, a deep U-Net may get stuck at zero output."""
VALIDATION_SCANS = 60
"""Validation scans, for the gain of a stage."""
POSTERIOR_RATE = 0.5
"""The learning rate of the `PosteriorMean`, four levels deep, over that of the stages: at one, half of its channels may
get stuck at zero."""
SWEEPS_BEFORE, SCANS_OF_POSTERIOR = 12, 3
"""Sweeps of refinement before the `PosteriorMean`, and its number of scans over that of a stage."""


class Example(NamedTuple):
    """The input of a U-Net `[channel, H, W]`, the truth with the same global phase `[H, W]`, and pixel weights."""

    seen: Tensor
    truth: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Recipe:
    """How the pretrained networks are trained."""

    scans: int = 500  # simulated scans that each stage learns from
    steps: int = 3000  # optimiser steps of each stage
    stages: int = 4
    sweeps: int = 4  # physics sweeps of each stage
    width: int = 16  # channels of the U-Nets
    learning_rate: float = 2e-3
    seed: int = 0


def pretrain(
    folder: Path,
    recipe: Recipe,
    *,
    device: torch.device | str = "cpu",
    resume: bool = False,
    say: Callable[[str], object] | None = None,
) -> Path:
    """Train the pretrained networks on simulated scans, U-Net after U-Net, and write the weights; returns their path.

    The sweeps of a stage need no training. So each stage in turn is run once over `recipe.scans` scans, behind the
    stages that are finished, and its U-Net learns in `recipe.steps` steps to turn what the sweeps left into the truth.
    The `PosteriorMean` learns last, from `SCANS_OF_POSTERIOR` times as many scans that are refined. With `resume` it
    continues after the last stage in `folder`; `say` takes lines of text.
    """
    keep_quiet()
    device = torch.device(device)
    torch.manual_seed(recipe.seed)
    options = {"stages": recipe.stages, "sweeps": recipe.sweeps, "width": recipe.width}
    network = build_network("unrolled", n=64, group_size=1, **options)
    assert isinstance(network, Unrolled)
    wide = {"width": round(1.5 * recipe.width)}
    posterior = PosteriorMean(**wide)
    record: dict[str, Any] = {"scans": recipe.scans, "steps": recipe.steps, "seed": recipe.seed}
    record |= {"learning_rate": recipe.learning_rate, "gain_db": []}
    state = Pretrained(network.state_dict(), {}, {"network": options, "posterior": wide}, record)
    checkpoint = folder / "checkpoints" / "stages.safetensors"
    if resume:
        state = _resumed(checkpoint, state)
        network.load_state_dict(state.network)
    try:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output_dir {folder}: it can't be written ({error.strerror}); choose another") from None
    network.to(device)
    for stage in range(len(state.recipe["gain_db"]), recipe.stages + 1):
        is_last = stage == recipe.stages
        see = _refined if is_last else functools.partial(_at_stage, stage=stage)
        learner = posterior.to(device) if is_last else network.denoisers[stage]
        name = "posterior mean" if is_last else f"stage {stage + 1} of {recipe.stages}"
        gain = _learn(learner, functools.partial(see, network), stage, recipe, folder, device, is_silent=say is None)
        state.recipe["gain_db"].append(round(gain, 3))
        state = state._replace(network=network.state_dict(), posterior=posterior.state_dict() if is_last else {})
        write_pretrained(checkpoint, state)
        if say is not None:
            say(f"{name}: {gain:+.2f} dB on unseen scans")
    return write_pretrained(folder / "pretrained.safetensors", state)


def _resumed(checkpoint: Path, wanted: Pretrained) -> Pretrained:
    """The state of a checkpoint that was made with the same settings."""
    if not checkpoint.is_file():
        raise UsageError(f"--resume: there is no checkpoint {checkpoint}; leave --resume out to start afresh")
    stored = read_pretrained(checkpoint)
    if stored.options != wanted.options or stored.recipe | {"gain_db": []} != wanted.recipe:
        raise UsageError(f"--resume: {checkpoint} was made with other options; give those, or leave --resume out")
    return stored


def _learn(
    learner: torch.nn.Module,
    see: Callable[[Scan], tuple[Tensor, Tensor, Region]],
    stage: int,
    recipe: Recipe,
    folder: Path,
    device: torch.device,
    *,
    is_silent: bool,
) -> float:
    """Train one U-Net on simulated scans; returns the gain on others [dB]."""
    scans = recipe.scans * (SCANS_OF_POSTERIOR if stage == recipe.stages else 1)
    unseen = _examples(see, seed=[recipe.seed, stage, 1], count=min(VALIDATION_SCANS, recipe.scans))
    examples = _examples(see, seed=[recipe.seed, stage, 0], count=scans)
    trainer = pl.Trainer(
        accelerator=accelerator_of(device),
        devices=1,
        max_steps=recipe.steps,
        gradient_clip_val=1.0,
        callbacks=[GracefulStop(), *([] if is_silent else [Progress()])],
        logger=pl.loggers.CSVLogger(folder, name="logs", version=f"stage-{stage + 1}"),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=10,
    )
    crops = Crops(examples, seed=[recipe.seed, stage, 2], steps=recipe.steps)
    enough, pace = (CLEAN_ENOUGH, POSTERIOR_RATE) if stage == recipe.stages else (GOOD_ENOUGH, 1.0)
    training = StageTraining(learner, learning_rate=pace * recipe.learning_rate, enough=enough)
    with same_signal_handlers():
        trainer.fit(training, DataLoader(crops, batch_size=None))
    gain = _gain(learner.cpu(), unseen, enough=enough)
    if not math.isfinite(gain):
        raise PtychoError(
            f"pretraining diverged in stage {stage + 1} with --learning-rate {recipe.learning_rate:g}; "
            "take a smaller one; the stages before it are kept"
        )
    learner.to(device)
    return gain


def _at_stage(network: Unrolled, scan: Scan, *, stage: int) -> tuple[Tensor, Tensor, Region]:
    """The input of the U-Net of a stage for a scan, and the truth, of order one."""
    probe = torch.from_numpy(scan.probe)
    region, truth = as_region(scan, subsets=pretrained_subsets(scan, np.arange(len(scan)), probe))
    region = region.to(_device_of(network))
    seen, _ = next(itertools.islice(network.stages(region), stage, None))
    return seen, truth / region.uniform_transmission, region


def _refined(network: Unrolled, scan: Scan) -> tuple[Tensor, Tensor, Region]:
    """The input of the `PosteriorMean` for a scan refined from the network's object, and the truth."""
    probe, indices = torch.from_numpy(scan.probe), np.arange(len(scan))
    first, _ = as_region(scan, subsets=pretrained_subsets(scan, indices, probe))
    subsets, validation = refinement_subsets(scan, indices, probe), pick_validation_set(scan.positions, probe)
    region, truth = as_region(scan, subsets=subsets, validation=validation)
    first, region = (each.to(_device_of(network)) for each in (first, region))
    start = on_canvas(network(first), first.origin, region)
    seen, _ = network_input(region, refine(region, start, sweeps=SWEEPS_BEFORE, start="network"))
    return seen, truth / region.uniform_transmission, region


def _device_of(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


@torch.inference_mode()
def _examples(see: Callable[[Scan], tuple[Tensor, Tensor, Region]], *, seed: list[int], count: int) -> list[Example]:
    """The inputs for `count` simulated scans, in half precision, without hopeless ones."""
    found = []
    for number in range(count):
        seen, truth, region = see(_simulated([*seed, number]))
        seen, light = seen.cpu(), region.illumination().cpu()
        weight = (light / (FULLY_LIT * light.max())).clamp(max=1)
        if relative_error(_object(seen), truth, weight) < HOPELESS:
            found.append(Example(seen.half(), truth, weight.half()))
    if not found:
        raise UsageError(f"--scans {count}: none of them could be reconstructed; use more")
    return found


class Crops(IterableDataset[Example]):
    """`steps` batches of random pieces, mirrored and turned over at random, each truth with the global phase of the
    input."""

    def __init__(self, examples: list[Example], *, seed: list[int], steps: int) -> None:
        self.examples, self.seed, self.steps = examples, seed, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Example]:
        rng = np.random.default_rng(self.seed)
        for _ in range(self.steps):
            chosen = rng.integers(len(self.examples), size=CROPS)
            pieces = [_crop(self.examples[int(number)], rng) for number in chosen]
            seen, truth, weight = (torch.stack(parts) for parts in zip(*pieces, strict=True))
            yield Example(seen, turned_to(truth, _object(seen), weight), weight)


def _crop(example: Example, rng: np.random.Generator) -> list[Tensor]:
    height, width = example.truth.shape
    for _ in range(5):  # a dark crop has no information
        top, left = (int(rng.integers(max(1, side - CROP + 1))) for side in (height, width))
        window = np.s_[..., top : top + CROP, left : left + CROP]
        if example.weight[window].float().mean() > FULLY_LIT:
            break
    parts = [part[window] for part in example]
    parts = [part.float() if part.dtype == torch.float16 else part for part in parts]
    missing = (0, CROP - parts[0].shape[-1], 0, CROP - parts[0].shape[-2])
    parts = [torch.nn.functional.pad(part, missing) for part in parts]
    for axes in ((-1,), (-2,)):
        if rng.uniform() < 0.5:
            parts = [part.flip(axes) for part in parts]
    return [part.transpose(-1, -2) for part in parts] if rng.uniform() < 0.5 else parts


def _object(seen: Tensor) -> Tensor:
    return torch.complex(1 + seen[..., 0, :, :].float(), seen[..., 1, :, :].float())


def _gain(denoiser: torch.nn.Module, examples: list[Example], *, enough: float) -> float:
    """Mean gain in relative square error [dB]."""
    gains = []
    with torch.inference_mode():
        for seen, truth, weight in examples:
            correction = denoiser(seen.float()[None])[0]
            before = _object(seen)
            after = before + torch.complex(correction[0], correction[1])
            errors = [relative_error(obj, truth, weight.float()) + enough for obj in (before, after)]
            gains.append(10 * float((errors[0] / errors[1]).log10()))
    return float(np.mean(gains))


def _simulated(seed: list[int]) -> Scan:
    """A random scan, fixed by its seed."""
    rng = np.random.default_rng(seed)
    while True:
        made = random_scan(rng)
        try:
            return Scan.from_arrays(made.amplitude, made.positions, probe=made.probe, domain="amplitude", obj=made.obj)
        except DataError:  # a pattern without photons, or a position outside
            continue


class StageTraining(pl.LightningModule):
    """Least squares against the truth, in decibels: every dose counts the same, down to an error of `enough`."""

    def __init__(self, denoiser: torch.nn.Module, *, learning_rate: float, enough: float) -> None:
        super().__init__()
        self.denoiser, self.learning_rate, self.enough = denoiser, learning_rate, enough

    def training_step(self, batch: Example, _: int) -> Tensor:
        seen, truth, weight = batch
        correction = self.denoiser(seen.contiguous(memory_format=torch.channels_last))
        away = _object(seen) + torch.complex(correction[:, 0], correction[:, 1]) - truth
        error = (weight * away.abs().square()).sum((-2, -1)) / (weight * truth.abs().square()).sum((-2, -1))
        loss = (error + self.enough).log().mean()
        self.log("loss", loss, on_step=True, batch_size=len(seen))
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.denoiser.parameters(), lr=self.learning_rate, weight_decay=1e-4)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": warm_up_and_cosine(optimizer, steps, longest_rise=RISE)}
