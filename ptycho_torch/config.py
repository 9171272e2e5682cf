"""What a user can set, one model per command: the flags, their defaults and their limits come from here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ptycho_torch import contradictions
from ptycho_torch.types import Domain


def setting(default: Any, description: str, *, flags: tuple[str, ...] = (), const: Any = None, **limits: Any) -> Any:
    """A field that becomes a flag; `flags` are its spellings on the command line, the first one is shown.

    With `const`, the flag may stand without a value and then means this one.
    """
    extra: Any = {"flags": list(flags), "const": const}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Config(BaseModel):
    """Frozen; a name that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, defer_build=True)


Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]


class DeviceSettings(Config):
    accelerator: Accelerator = setting("auto", "where to compute; `gpu` is an error on a machine without one")
    device: str | None = setting(None, "older spelling of --accelerator (cpu or cuda)", flags=("--device",))
    num_workers: int = setting(0, "extra processes that load patterns", flags=("--num-workers",), ge=0)
    quiet: bool = setting(False, "say nothing but errors and the intensity scale")


class StatisticsSettings(Config):
    log_patch_stats: bool = setting(
        False, "log statistics of the predicted patches and write analysis/", flags=("--log-patch-stats",)
    )
    patch_stats_limit: int | None = setting(None, "log at most so many batches", flags=("--patch-stats-limit",), ge=1)


class ProbeMaskSettings(Config):
    probe_mask: bool = setting(False, "cut the probe to a disk", flags=("--probe-mask",))
    probe_mask_sigma: float = setting(1.0, "softness of the disk's edge [px]", flags=("--probe-mask-sigma",), ge=0)
    probe_mask_diameter: float | None = setting(
        None, "diameter of the disk [px], N/2 when left out", flags=("--probe-mask-diameter",), gt=0
    )


class ScanSettings(Config):
    measurement_domain: Domain | None = setting(
        None,
        "what the scan file holds: photon counts or their square roots (default: what the file declares, or a test)",
        flags=("--measurement-domain",),
    )
    scale_contract_version: str | None = setting(
        None,
        "accepted for older command lines; the scale always follows docs/scales.md",
        flags=("--scale-contract-version",),
    )


class TrainConfig(ScanSettings, DeviceSettings, StatisticsSettings, ProbeMaskSettings):
    """Train a network on the patterns and positions of a scan, and write a bundle."""

    train_data_file: Path = setting(..., "scan to learn from")
    test_data_file: Path | None = setting(
        None, "scan to validate on (default: a part of the training scan is held out)"
    )
    output_dir: Path = setting(..., "folder for the bundle wts.h5.zip, checkpoints and logs")
    max_epochs: int = setting(100, "epochs", ge=1)
    n_images: int = setting(512, "groups of patterns an epoch", flags=("--n_images", "--n_groups"), ge=1)
    gridsize: int = setting(2, "a group is gridsize² neighbouring patterns", ge=1, le=8)
    batch_size: int = setting(16, "groups a batch: together a compact region of the scan on one canvas", ge=1)
    network: Literal["unrolled", "cnn"] = setting("unrolled", "the reconstruction network")
    init: Literal["random", "pretrained"] = setting(
        "random", "weights to begin with: random ones, or those that come along, learned from simulated scans"
    )
    probe_from: Literal["file", "patterns"] = setting(
        "file", "take the probe from the file, or find it from the patterns alone", flags=("--probe-from",)
    )
    probe_update: bool = setting(
        False, "refine the probe on the training scan before training starts", flags=("--probe-update",)
    )
    stages: int = setting(3, "stages of the unrolled network", ge=1, le=16)
    sweeps: int = setting(3, "physics sweeps a stage of the unrolled network", ge=1, le=32)
    network_width: int = setting(16, "channels of the unrolled network's U-Nets", ge=4, le=128)
    torch_loss_mode: Literal["poisson", "mae"] = setting(
        "poisson", "Poisson likelihood of the counts, or mean absolute amplitude error", flags=("--torch-loss-mode",)
    )
    tv_weight: float = setting(0.0, "weight of the object's total variation in the loss", ge=0)
    learning_rate: float = setting(1e-3, "peak learning rate of AdamW", flags=("--learning-rate",), gt=0)
    scheduler: Literal["Default", "WarmupCosine", "Constant", "Exponential", "MultiStage", "Adaptive"] = setting(
        "Default", "learning-rate schedule; Default is WarmupCosine"
    )
    accumulate_grad_batches: int = setting(1, "batches a step", flags=("--accumulate-grad-batches",), ge=1)
    gradient_clip: float = setting(1.0, "largest norm of the gradient, 0 for no limit", ge=0)
    precision: Literal["32-true", "bf16-mixed"] = setting(
        "32-true", "bf16-mixed computes the U-Nets in bfloat16; physics stays in complex64"
    )
    intensity_scale: Literal["learned", "measured", "closed-form"] = setting(
        "learned", "how the intensity scale is fitted", flags=("--intensity-scale",)
    )
    nphotons: float | None = setting(None, "photons a pattern, for the closed form of the intensity scale", gt=0)
    validation_fraction: float = setting(0.1, "part of the scan that is held out for validation", ge=0, lt=1)
    deterministic: bool = setting(True, "same command, same bundle, bit for bit (on a CPU)")
    seed: int = setting(0, "seed of weights and batches", ge=0)
    resume: bool = setting(False, "go on from the last checkpoint in the output folder")
    logger: Literal["csv", "tensorboard", "mlflow", "none"] = setting(
        "csv", "extra log beside training_log.jsonl; tensorboard and mlflow are extras of the package"
    )
    disable_mlflow: bool = setting(False, "accepted for older command lines; mlflow runs only with --logger mlflow")
    enable_checkpointing: bool = setting(
        True, "keep the best and the last checkpoint", flags=("--enable-checkpointing",)
    )
    checkpoint_save_top_k: int = setting(
        1, "how many of the best checkpoints to keep", flags=("--checkpoint-save-top-k",), ge=1
    )
    checkpoint_monitor: Literal["val_loss", "train_loss"] = setting(
        "val_loss", "what makes a checkpoint the best", flags=("--checkpoint-monitor",)
    )
    checkpoint_mode: Literal["min", "max"] = setting(
        "min", "whether less or more of it is better", flags=("--checkpoint-mode",)
    )
    early_stop_patience: int = setting(
        100, "epochs without a better value before training stops", flags=("--early-stop-patience",), ge=1
    )
    profile: Literal["ci"] | None = setting(None, "ci: a run of two short epochs that shows that all parts work")

    @model_validator(mode="after")
    def _contradictions(self) -> TrainConfig:
        if self.intensity_scale == "closed-form" and self.nphotons is None:
            raise ValueError("--intensity-scale closed-form needs --nphotons")
        if self.resume and not self.enable_checkpointing:
            raise ValueError("--resume needs checkpoints, but --disable-checkpointing switches them off")
        if self.init == "pretrained" and self.network != "unrolled":
            raise ValueError("--init pretrained needs --network unrolled: there are no weights for another one")
        return self


class PretrainConfig(DeviceSettings):
    """Train the network for unseen scans on simulated ones, as the weights in the package were trained."""

    output_dir: Path = setting(..., "folder for pretrained.safetensors, checkpoints and the log")
    scans: int = setting(500, "simulated scans that each stage learns from", ge=1)
    steps: int = setting(3000, "optimiser steps of each stage", ge=1)
    stages: int = setting(4, "stages of the network", ge=1, le=16)
    sweeps: int = setting(4, "physics sweeps a stage", ge=1, le=32)
    network_width: int = setting(16, "channels of the U-Nets", ge=4, le=128)
    learning_rate: float = setting(2e-3, "peak learning rate of AdamW", flags=("--learning-rate",), gt=0)
    seed: int = setting(0, "seed of weights and scans", ge=0)
    resume: bool = setting(False, "go on after the last finished stage in the output folder")


REFINING_SWEEPS, MOVING_SWEEPS = 40, 90
"""Sweeps of `refine` where no number is given."""


class RefinementSettings(Config):
    refine: int | None = setting(
        None,
        "refine by up to N sweeps of maximum likelihood over the whole object",
        flags=("--refine",),
        const=10,
        ge=1,
    )
    likelihood: Literal["poisson", "amplitude"] = setting("poisson", "what a refinement makes likely")
    probe_update: bool = setting(False, "refine the probe, too", flags=("--probe-update",))
    probe_from: Literal["file", "patterns"] = setting(
        "file", "take the probe from the file, or find it from the patterns alone", flags=("--probe-from",)
    )
    modes: int | None = setting(None, "incoherent probe modes to refine (default: as many as given)", ge=1, le=8)
    position_correction: Literal["none", "free", "affine"] = setting(
        "none", "refine the positions, each on its own or by one affine map", flags=("--position-correction",)
    )
    intensity_fluctuation: bool = setting(
        False, "refine a factor on the counts of each pattern", flags=("--intensity-fluctuation",)
    )
    denoise: bool = setting(
        False,
        "then let a network take out the photon noise, unless patterns that it has not seen contradict it",
    )

    @model_validator(mode="after")
    def _freedom_of_a_refinement(self) -> RefinementSettings:
        found = contradictions.of_a_refinement(
            refine=self.refine,
            probe_update=self.probe_update,
            modes=self.modes,
            position_correction=self.position_correction,
            intensity_fluctuation=self.intensity_fluctuation,
            denoise=self.denoise,
            spelled=lambda name: f"--{name.replace('_', '-')}",
        )
        if found is not None:
            raise ValueError(found)
        return self


class InferenceConfig(ScanSettings, DeviceSettings, StatisticsSettings, ProbeMaskSettings, RefinementSettings):
    """Reconstruct a scan with a trained bundle, or the pretrained network: arrays, pictures, numbers and a report."""

    model_path: Path = setting(
        ...,
        "folder that holds the bundle wts.h5.zip, or the file; `pretrained`: the network that comes along; `flat`, or "
        "a reconstruction.npz: no network, for --refine",
    )
    test_data: Path = setting(..., "scan to reconstruct")
    output_dir: Path = setting(..., "folder for the results")
    n_images: int | None = setting(None, "patterns used: those nearest to the centre of the scan (default: all)", ge=1)
    inference_batch_size: int | None = setting(
        None,
        "patterns a batch (default: what the processor's cache or the GPU holds)",
        flags=("--inference-batch-size",),
        ge=1,
    )
    precision: Literal["32-true", "bf16-mixed"] = setting("32-true", "precision of the network's convolutions")
    debug_dump: Path | None = setting(None, "folder for patches, offsets and canvas figures", flags=("--debug-dump",))
    patch_weighting: Literal["uniform", "probe"] = setting(
        "probe",
        "accepted for older command lines; patches are always weighted by the probe",
        flags=("--patch-weighting",),
    )


class RefineConfig(InferenceConfig):
    """Refine a reconstruction by maximum likelihood, from whatever start: a shorter word for infer --refine."""

    model_path: Path = setting(
        Path("pretrained"),
        "pretrained, flat, a reconstruction.npz, or a bundle and its folder",
        flags=("--start", "--model_path"),
    )
    refine: int | None = setting(
        None,
        f"sweeps at most (default: {REFINING_SWEEPS}, {MOVING_SWEEPS} where positions move); it ends when nothing is "
        "left to gain",
        flags=("--sweeps",),
        ge=1,
    )

    @model_validator(mode="before")
    @classmethod
    def _sweeps_for_what_is_free(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("refine") is None:
            moving = values.get("position_correction", "none") != "none"
            return {**values, "refine": MOVING_SWEEPS if moving else REFINING_SWEEPS}
        return values


class SimulateConfig(Config):
    """Simulate a scan with known truth, in the NPZ contract."""

    output: Path = setting(..., "scan file to write (.npz)", flags=("--output", "-o"))
    object_kind: Literal["natural", "lines", "dead-leaves", "grf", "siemens"] = setting(
        "natural", "what the object shows", flags=("--object",)
    )
    probe_kind: Literal["disk", "gaussian", "defocus", "zone-plate", "diffuser"] = setting(
        "defocus", "the illumination", flags=("--probe",)
    )
    modes: int = setting(1, "incoherent probe modes", ge=1, le=8)
    scan_path: Literal["raster", "spiral", "random"] = setting(
        "raster", "order and place of the positions", flags=("--scan",)
    )
    n: int = setting(64, "detector pixels a side, even", flags=("--n", "-N"), ge=16, multiple_of=2)
    positions: int = setting(1600, "patterns", ge=1)
    step: float = setting(7.6, "mean distance of neighbouring positions [object px]", gt=0)
    jitter: float = setting(1.0, "random displacement of each position, up to this in each direction [px]", ge=0)
    aspect: float = setting(1.0, "height over width of the scanned field", gt=0)
    photons: float = setting(1e5, "mean photons a pattern", flags=("--photons", "--nphotons"), gt=0)
    noise: bool = setting(True, "Poisson noise")
    seed: int = setting(0, "seed of object, positions and noise", ge=0)
    quiet: bool = setting(False, "say nothing but errors")


class DemoConfig(Config):
    """Simulate a small scan, train on it, reconstruct it, and show where the picture is."""

    output_dir: Path = setting(Path("ptycho-torch-demo"), "folder for scan, bundle and results")
    max_epochs: int = setting(6, "epochs", ge=1)
    quiet: bool = setting(False, "say nothing but errors and the intensity scale")


class BenchmarkConfig(Config):
    """Measure how near the pretrained network, and refinements from it and from nothing, come to an oracle."""

    output_dir: Path = setting(..., "folder for benchmark.json, benchmark.csv and benchmark.png")
    rows: str = setting(
        "dose,overlap,size,probe,object,lines,measured", "groups of experiments, separated by commas", flags=("--rows",)
    )
    data: Path | None = setting(None, "folder with measured scans (.npz) that hold a reference object")
    quiet: bool = setting(False, "say nothing but errors")


class EvaluateConfig(Config):
    """Compare two reconstructions, or one with a known object."""

    output_dir: Path | None = setting(None, "folder for evaluation.json, evaluation.csv and a figure")
    ramp: bool = setting(False, "also remove a linear phase ramp")
    scale: Literal["none", "amplitude", "complex"] = setting("none", "also remove an amplitude scale")
    inset: int = setting(8, "pixels left out inside the rectangle that the positions span", ge=0)


class BundleConfig(Config):
    """Look into a bundle, or check it, without running anything that it holds."""
