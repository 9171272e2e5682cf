"""The settings, one model per command: the flags, their defaults and their limits come from here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ptycho_torch import contradictions
from ptycho_torch.errors import UsageError
from ptycho_torch.types import Domain, Propagation
from ptycho_torch.units import ANGLES, ENERGIES, INVERSE_LENGTHS, LENGTHS, VOLTAGES, degrees_of, quantity

Group = Literal["input", "model", "training", "refinement", "simulation", "options", "computing", "output", "older"]
"""Where `--help` lists a flag; in this order, after the required ones."""
Reads = Literal["scan", "model", "folder"]
"""What lies at the path that a flag names; a model may also be one of the words `WITHOUT_A_FILE`."""
WITHOUT_A_FILE = ("pretrained", "flat")


def setting(
    default: Any,
    description: str,
    *,
    group: Group = "options",
    flags: tuple[str, ...] = (),
    const: Any = None,
    reads: Reads | None = None,
    **limits: Any,
) -> Any:
    """A field that becomes a flag; `flags` are its spellings on the command line, the first one is shown.

    `group` is where `--help` lists it. With `const`, the flag may stand without a value and then means this one. What
    the command `reads` is looked for before anything heavy is imported.
    """
    extra: Any = {"group": group, "flags": list(flags), "const": const, "reads": reads}
    return Field(default, description=description, json_schema_extra=extra, **limits)


class Config(BaseModel):
    """Frozen; a name that does not exist is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, defer_build=True)
    example: ClassVar[str] = ""
    """A command line that `--help` ends with."""


Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"]
QUIET = "print one line at the end and nothing else but errors"


class DeviceSettings(Config):
    accelerator: Accelerator = setting(
        "auto", "where to compute; `gpu` is an error on a machine without one", group="computing"
    )
    device: str | None = setting(
        None, "older spelling of --accelerator (cpu or cuda)", group="older", flags=("--device",)
    )
    num_workers: int = setting(
        0, "extra processes that load patterns", group="computing", flags=("--num-workers",), ge=0
    )
    quiet: bool = setting(False, QUIET, group="output")


class StatisticsSettings(Config):
    log_patch_stats: bool = setting(
        False,
        "print statistics of the predicted patches and write them to analysis/",
        group="output",
        flags=("--log-patch-stats",),
    )
    patch_stats_limit: int | None = setting(
        None, "print them for at most N batches", group="output", flags=("--patch-stats-limit",), ge=1
    )


class ProbeMaskSettings(Config):
    probe_mask: bool = setting(False, "set the probe to zero outside a disk", group="input", flags=("--probe-mask",))
    probe_mask_sigma: float = setting(
        1.0, "width of the disk's soft edge [px]", group="input", flags=("--probe-mask-sigma",), ge=0
    )
    probe_mask_diameter: float | None = setting(
        None, "diameter of the disk [px] (default: N/2)", group="input", flags=("--probe-mask-diameter",), gt=0
    )


QUANTITIES: dict[str, tuple[str, dict[str, float], str]] = {
    "photon_energy": ("photon_energy_ev", ENERGIES, "--photon-energy 8keV"),
    "electron_voltage": ("electron_voltage", VOLTAGES, "--electron-voltage 300kV"),
    "distance": ("distance_m", LENGTHS, "--distance 2m"),
    "detector_pixel": ("detector_pixel_m", LENGTHS, "--detector-pixel 75um"),
    "diffraction_step": ("diffraction_step", INVERSE_LENGTHS, "--diffraction-step 0.08/A"),
    "pixel_size": ("pixel_size_m", LENGTHS, "--pixel-size 12nm"),
    "step": ("step_m", LENGTHS, "--step 1.2A"),
    "semiangle": ("semiangle_rad", ANGLES, "--semiangle 21.4mrad"),
    "defocus": ("defocus_m", LENGTHS, "--defocus -200A"),
}
"""What a flag with a unit is in the reader's terms, its units, and an example."""


class SourceSettings(Config):
    """What a scan's file does not tell, or tells wrong."""

    positions: Path | None = setting(
        None, "table of positions: y, x in a CSV, x y in other text, or named columns", group="input", reads="scan"
    )
    map: str | None = setting(
        None,
        "what is where in an HDF5 of no known format: a TOML file, or diffraction=KEY positions_x=KEY … in quotes",
        group="input",
    )
    photon_energy: str | None = setting(
        None, "energy of the photons with its unit, as 8keV", group="input", flags=("--photon-energy",)
    )
    electron_voltage: str | None = setting(
        None, "accelerating voltage of electrons, as 300kV", group="input", flags=("--electron-voltage",)
    )
    distance: str | None = setting(None, "from the sample to the detector, as 2m", group="input")
    detector_pixel: str | None = setting(
        None, "side of a detector pixel, as 75um", group="input", flags=("--detector-pixel",)
    )
    diffraction_step: str | None = setting(
        None, "what a detector pixel is in diffraction space, as 0.08/A", group="input", flags=("--diffraction-step",)
    )
    pixel_size: str | None = setting(
        None, "side of an object pixel, instead of what the optics give", group="input", flags=("--pixel-size",)
    )
    step: str | None = setting(None, "between the positions of a raster, as 1.2A", group="input")
    raster: str | None = setting(None, "rows,columns of a stack that was taken on a raster, as 64,64", group="input")
    semiangle: str | None = setting(
        None, "of the convergent beam, as 21.4mrad: the probe is that of a round aperture", group="input"
    )
    defocus: str | None = setting(None, "of that probe, as -200A", group="input")
    position_sign: Literal["1", "-1"] | None = setting(
        None,
        "1: positions are the probe's on the object; -1: the sample was moved (default: as the format says)",
        group="input",
        flags=("--position-sign",),
    )
    frames: str | None = setting(None, "which frames, as 0:1000:2", group="input")
    crop: int | None = setting(None, "use the N x N pixels about the beam", group="input", ge=16)
    bin: int | None = setting(None, "sum K x K detector pixels", group="input", ge=1, le=64)
    mask: Path | None = setting(
        None, "image of the bad pixels, NPY, TIFF, or HDF5 as FILE:KEY; the value of most pixels is good", group="input"
    )
    dark: Path | None = setting(None, "image without light, or several: subtracted from each frame", group="input")
    flat: Path | None = setting(None, "image of even light: each frame is divided by it", group="input")
    beam_centre: str | None = setting(
        None,
        "row,column of the beam on the detector (default: as the file tells)",
        group="input",
        flags=("--beam-centre",),
    )

    @model_validator(mode="after")
    def _quantities_have_units(self) -> Self:
        self.stated()
        return self

    def stated(self) -> dict[str, Any]:
        """What `Stated` takes. Raises UsageError for a quantity without its unit."""
        found: dict[str, Any] = {}
        for name, (key, units, example) in QUANTITIES.items():
            text = getattr(self, name)
            if text is not None:
                found[key] = quantity(text, units, what=f"--{name.replace('_', '-')}", example=example)
        if self.frames is not None:
            found["frames"] = _slice_of(self.frames)
        if self.beam_centre is not None:
            found["centre"] = _pair_of(
                self.beam_centre, float, flag="--beam-centre", needed="row,column is needed, as 128,130.5"
            )
        if self.raster is not None:
            found["raster"] = _pair_of(self.raster, int, flag="--raster", needed="rows,columns is needed, as 64,64")
        if self.position_sign is not None:
            found["position_sign"] = int(self.position_sign)
        for name in ("positions", "crop", "mask", "dark", "flat"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        if self.map is not None:
            found["mapping"] = self.map
        if self.bin is not None:
            found["bin"] = self.bin
        return found


def _slice_of(text: str) -> slice:
    words = text.split(":")
    if len(words) in (2, 3) and all(re.fullmatch(r"[-+]?\d*", word) for word in words):
        first, last, step = (int(word) if word.strip("+-") else None for word in (*words, "")[:3])
        if step is None or step > 0:
            return slice(first, last, step)
    raise UsageError(f"--frames is {text!r}: first:last or first:last:step is needed, as 0:1000:2")


Number = TypeVar("Number", int, float)


def _pair_of(text: str, kind: type[Number], *, flag: str, needed: str) -> tuple[Number, Number]:
    try:
        row, column = (kind(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"{flag} is {text!r}: {needed}") from None
    return row, column


class ScanSettings(SourceSettings):
    measurement_domain: Domain | None = setting(
        None,
        "what the scan file holds, photon counts or their square roots (default: what the file declares, or a test)",
        group="input",
        flags=("--measurement-domain",),
    )
    trust_detector: bool = setting(
        False,
        "use all pixels, values and frames as they are, but for the mask: none is looked at (docs/detector.md)",
        group="input",
        flags=("--trust-detector",),
    )
    scale_contract_version: str | None = setting(
        None,
        "has no effect: the intensity scale always follows docs/scales.md",
        group="older",
        flags=("--scale-contract-version",),
    )


Flip = Literal["x", "y", "xy"]


class GeometrySettings(Config):
    flip: Flip | None = setting(None, "mirror the positions", group="input")
    swap_axes: bool = setting(
        False, "take x for y of the positions, before they are mirrored", group="input", flags=("--swap-axes",)
    )
    rotation: str | None = setting(
        None, "turn the positions, after they are mirrored, from x towards y, as -34deg", group="input"
    )
    flip_detector: Flip | None = setting(
        None, "mirror the patterns, but not the probe", group="input", flags=("--flip-detector",)
    )
    transpose_detector: bool = setting(
        False, "transpose the patterns, before they are mirrored", group="input", flags=("--transpose-detector",)
    )
    frame_lag: str | None = setting(
        None,
        "K or K@J: pattern j was taken at position j + K, for all j from J on",
        group="input",
        flags=("--frame-lag",),
    )
    position_unit: Literal["px", "m", "mm", "um", "nm", "angstrom"] | None = setting(
        None,
        "unit of the positions; lengths need pixel_size_m in the file (default: object pixels, where they can be)",
        group="input",
        flags=("--position-unit",),
    )

    @model_validator(mode="after")
    def _rotation_has_a_unit(self) -> Self:
        if self.rotation is not None:
            degrees_of(self.rotation)
        return self

    def geometry(self) -> dict[str, Any]:
        """What `turned` takes."""
        return {name: getattr(self, name) for name in GeometrySettings.model_fields}


class TrainConfig(ScanSettings, GeometrySettings, DeviceSettings, StatisticsSettings, ProbeMaskSettings):
    """Train a network on the patterns and positions of a scan, and write a bundle."""

    example: ClassVar[str] = "ptycho-torch train --train_data_file scan.npz --output_dir model --max_epochs 50"
    train_data_file: Path = setting(..., "scan to train on", group="input", reads="scan")
    test_data_file: Path | None = setting(
        None, "scan to validate on (default: part of the training scan)", group="input", reads="scan"
    )
    output_dir: Path = setting(..., "folder for the bundle wts.h5.zip, checkpoints and logs", group="output")
    max_epochs: int = setting(100, "epochs", group="training", ge=1)
    n_images: int = setting(
        512, "groups of patterns per epoch", group="training", flags=("--n_images", "--n_groups"), ge=1
    )
    gridsize: int = setting(2, "a group is gridsize² neighbouring patterns", group="training", ge=1, le=8)
    batch_size: int = setting(
        16, "groups per batch; a batch is a compact region of the scan on one canvas", group="training", ge=1
    )
    network: Literal["unrolled", "cnn"] = setting("unrolled", "the network", group="model")
    init: Literal["random", "pretrained"] = setting(
        "random", "initial weights: random, or those of the package, trained on simulated scans", group="model"
    )
    probe_from: Literal["file", "patterns"] = setting(
        "file",
        "take the probe from the file, or estimate it from the patterns alone",
        group="input",
        flags=("--probe-from",),
    )
    probe_update: bool = setting(
        False, "refine the probe on the training scan before training", group="input", flags=("--probe-update",)
    )
    stages: int = setting(3, "stages of the unrolled network", group="model", ge=1, le=16)
    sweeps: int = setting(3, "physics sweeps per stage of the unrolled network", group="model", ge=1, le=32)
    network_width: int = setting(16, "channels of the unrolled network's U-Nets", group="model", ge=4, le=128)
    torch_loss_mode: Literal["poisson", "mae"] = setting(
        "poisson",
        "Poisson likelihood of the counts, or mean absolute error of the amplitudes",
        group="training",
        flags=("--torch-loss-mode",),
    )
    tv_weight: float = setting(0.0, "weight of the object's total variation in the loss", group="training", ge=0)
    learning_rate: float = setting(
        1e-3, "peak learning rate of AdamW", group="training", flags=("--learning-rate",), gt=0
    )
    scheduler: Literal["Default", "WarmupCosine", "Constant", "Exponential", "MultiStage", "Adaptive"] = setting(
        "Default", "learning-rate schedule; Default is WarmupCosine", group="training"
    )
    accumulate_grad_batches: int = setting(
        1, "batches per optimiser step", group="training", flags=("--accumulate-grad-batches",), ge=1
    )
    gradient_clip: float = setting(1.0, "largest norm of the gradient (0: no limit)", group="training", ge=0)
    precision: Literal["32-true", "bf16-mixed"] = setting(
        "32-true", "bf16-mixed computes the U-Nets in bfloat16; the physics stays in complex64", group="computing"
    )
    intensity_scale: Literal["learned", "measured", "closed-form"] = setting(
        "learned", "how the intensity scale is found (docs/scales.md)", group="model", flags=("--intensity-scale",)
    )
    nphotons: float | None = setting(
        None, "photons per pattern, for the closed form of the intensity scale", group="model", gt=0
    )
    validation_fraction: float = setting(
        0.1, "fraction of the patterns held out for validation", group="training", ge=0, lt=1
    )
    deterministic: bool = setting(
        True, "the same command writes the same bundle, bit for bit, on a CPU", group="computing"
    )
    seed: int = setting(0, "seed of weights and batches", group="training", ge=0)
    resume: bool = setting(False, "continue from the last checkpoint in the output folder", group="training")
    logger: Literal["csv", "tensorboard", "mlflow", "none"] = setting(
        "csv",
        "log beside training_log.jsonl; tensorboard and mlflow are optional dependencies of the package",
        group="output",
    )
    disable_mlflow: bool = setting(False, "has no effect: mlflow runs only with --logger mlflow", group="older")
    enable_checkpointing: bool = setting(
        True, "keep the best and the last checkpoint", group="output", flags=("--enable-checkpointing",)
    )
    checkpoint_save_top_k: int = setting(
        1, "how many of the best checkpoints are kept", group="output", flags=("--checkpoint-save-top-k",), ge=1
    )
    checkpoint_monitor: Literal["val_loss", "train_loss"] = setting(
        "val_loss", "loss by which checkpoints are compared", group="output", flags=("--checkpoint-monitor",)
    )
    checkpoint_mode: Literal["min", "max"] = setting(
        "min", "whether the smaller or the larger loss is better", group="output", flags=("--checkpoint-mode",)
    )
    early_stop_patience: int = setting(
        100,
        "epochs without improvement after which training stops",
        group="training",
        flags=("--early-stop-patience",),
        ge=1,
    )
    profile: Literal["smoke"] | None = setting(
        None, "smoke: a run of two short epochs that exercises all parts", group="training"
    )

    @field_validator("profile", mode="before")
    @classmethod
    def _profile_of_another_kind(cls, value: Any) -> Any:
        if value == "ci":
            raise ValueError(
                "in this ecosystem `ci` names a normalisation profile; use `--profile smoke` for a short run that "
                "exercises all parts"
            )
        return value

    @model_validator(mode="after")
    def _contradictions(self) -> TrainConfig:
        if self.intensity_scale == "closed-form" and self.nphotons is None:
            raise ValueError("--intensity-scale closed-form needs --nphotons")
        if self.resume and not self.enable_checkpointing:
            raise ValueError("--resume needs checkpoints, but --disable-checkpointing switches them off")
        if self.init == "pretrained" and self.network != "unrolled":
            raise ValueError("--init pretrained needs --network unrolled: there are no weights for another network")
        return self


class PretrainConfig(DeviceSettings):
    """Train the pretrained network again, on simulated scans, as the weights of the package were trained."""

    example: ClassVar[str] = "ptycho-torch pretrain --output_dir weights"
    output_dir: Path = setting(..., "folder for pretrained.safetensors, checkpoints and the log", group="output")
    scans: int = setting(500, "simulated scans for each stage", group="training", ge=1)
    steps: int = setting(3000, "optimiser steps for each stage", group="training", ge=1)
    stages: int = setting(4, "stages of the network", group="model", ge=1, le=16)
    sweeps: int = setting(4, "physics sweeps per stage", group="model", ge=1, le=32)
    network_width: int = setting(16, "channels of the U-Nets", group="model", ge=4, le=128)
    learning_rate: float = setting(
        2e-3, "peak learning rate of AdamW", group="training", flags=("--learning-rate",), gt=0
    )
    seed: int = setting(0, "seed of weights and scans", group="training", ge=0)
    resume: bool = setting(False, "continue after the last finished stage in the output folder", group="training")


REFINING_SWEEPS, MOVING_SWEEPS, RUN_SWEEPS = 40, 90, 60
"""Sweeps of `refine` where no number is given, and of `run`: a probe that is found from the patterns takes more."""


class RefinementSettings(Config):
    refine: int | None = setting(
        None,
        "refine the whole object by up to N sweeps of maximum likelihood",
        group="refinement",
        flags=("--refine",),
        const=10,
        ge=1,
    )
    likelihood: Literal["poisson", "amplitude"] = setting(
        "poisson", "likelihood that the refinement maximises", group="refinement"
    )
    probe_update: bool = setting(False, "refine the probe too", group="refinement", flags=("--probe-update",))
    probe_from: Literal["file", "patterns"] = setting(
        "file",
        "take the probe from the file, or estimate it from the patterns alone",
        group="input",
        flags=("--probe-from",),
    )
    modes: int | None = setting(
        None, "incoherent probe modes to refine (default: as many as the scan has)", group="refinement", ge=1, le=8
    )
    position_correction: Literal["none", "free", "affine"] = setting(
        "none",
        "refine the positions, each on its own or all by one affine map",
        group="refinement",
        flags=("--position-correction",),
    )
    intensity_fluctuation: Literal["auto", "yes", "no"] = setting(
        "auto",
        "refine a factor on the counts of each pattern; auto: where the light of the frames drifts or jumps",
        group="refinement",
        flags=("--intensity-fluctuation",),
        const="yes",
    )
    denoise: bool = setting(
        False,
        "afterwards remove photon noise by a network; kept only if held-out pixels do not contradict it",
        group="refinement",
    )

    @model_validator(mode="after")
    def _refinement_contradictions(self) -> RefinementSettings:
        found = contradictions.of_a_refinement(
            refine=self.refine,
            probe_update=self.probe_update,
            modes=self.modes,
            position_correction=self.position_correction,
            intensity_fluctuation=self.intensity_fluctuation == "yes",
            denoise=self.denoise,
            spelled=lambda name: f"--{name.replace('_', '-')}",
        )
        if found is not None:
            raise ValueError(found)
        return self


class InferenceConfig(
    ScanSettings, GeometrySettings, DeviceSettings, StatisticsSettings, ProbeMaskSettings, RefinementSettings
):
    """Reconstruct a scan with a trained bundle or the pretrained network; writes the object, images and a report."""

    example: ClassVar[str] = (
        "ptycho-torch infer --model_path pretrained --test_data scan.npz --output_dir results --refine 20 --denoise"
    )
    model_path: Path = setting(
        ...,
        "a bundle wts.h5.zip or its folder; `pretrained`: the network of the package; `flat` or a reconstruction.npz: "
        "an initial object for --refine, without a network",
        group="model",
        reads="model",
    )
    test_data: Path = setting(..., "scan to reconstruct", group="input", reads="scan")
    output_dir: Path = setting(..., "folder for the results", group="output")
    n_images: int | None = setting(
        None, "use the N patterns nearest to the centre of the scan (default: all)", group="input", ge=1
    )
    inference_batch_size: int | None = setting(
        None,
        "patterns per batch (default: what fits the processor's cache or the GPU)",
        group="computing",
        flags=("--inference-batch-size",),
        ge=1,
    )
    precision: Literal["32-true", "bf16-mixed"] = setting(
        "32-true", "precision of the network's convolutions", group="computing"
    )
    output_format: Literal["h5", "tif", "cxi", "ptychodus"] | None = setting(
        None,
        "write the result also as HDF5 (NeXus), TIFF of amplitude and phase, CXI, or a folder of ptychodus",
        group="output",
        flags=("--output-format",),
    )
    strict: bool = setting(
        False, "end with exit code 5 where the verdict is bad; the results are written all the same", group="output"
    )
    diagnose: bool = setting(
        True,
        "where the verdict is not good, try other orientations, lags, units and centres, and name the likeliest cause",
        flags=("--diagnose",),
    )
    debug_dump: Path | None = setting(
        None, "folder for patches, offsets and figures of the canvas", group="output", flags=("--debug-dump",)
    )
    patch_weighting: Literal["uniform", "probe"] = setting(
        "probe",
        "has no effect: patches are always weighted by the probe",
        group="older",
        flags=("--patch-weighting",),
    )


def start() -> Any:
    """Where a refinement starts from."""
    return setting(
        Path("pretrained"),
        "initial object: pretrained (the network of the package), flat, a reconstruction.npz, or a bundle",
        group="model",
        flags=("--start", "--model_path"),
        reads="model",
    )


class RefineConfig(InferenceConfig):
    """Refine a reconstruction by maximum likelihood, from any initial object; short for infer --refine."""

    example: ClassVar[str] = "ptycho-torch refine --test_data scan.npz --output_dir results --probe-update"
    model_path: Path = start()
    refine: int | None = setting(
        None,
        f"sweeps at most (default: {REFINING_SWEEPS}, or {MOVING_SWEEPS} where positions are refined); it stops when "
        "held-out patterns no longer improve",
        group="refinement",
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


class RunConfig(InferenceConfig):
    """From the file that an instrument or another program wrote to an image, a verdict and a report."""

    example: ClassVar[str] = "ptycho-torch run scan.h5"
    test_data: Path = setting(..., "file or folder of a scan, in any known format", group="input", reads="scan")
    model_path: Path = start()
    output_dir: Path = setting(
        None, "folder for the results (default: the name of the file, and _results)", group="output"
    )
    refine: int | None = setting(
        RUN_SWEEPS,
        "sweeps at most; it stops when held-out patterns no longer improve",
        group="refinement",
        flags=("--sweeps",),
        ge=1,
    )

    orientation: Literal["given", "auto"] | None = setting(
        None,
        "auto: find how the positions lie (flips, rotation, frame lag), and reconstruct them so "
        "(default: where neither the format nor a flag tells)",
        group="input",
    )

    @property
    def searches_orientation(self) -> bool | None:
        """None: where the format does not tell."""
        if self.orientation is not None:
            return self.orientation == "auto"
        is_told = any(getattr(self, name) for name in ("flip", "swap_axes", "rotation", "frame_lag"))
        return False if is_told else None

    @model_validator(mode="before")
    @classmethod
    def _named_by_the_scan(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("output_dir") is None and values.get("test_data") is not None:
            return {**values, "output_dir": cls.folder_for(Path(values["test_data"]))}
        return values

    @classmethod
    def folder_for(cls, scan: Path) -> Path:
        """Where the results go if nothing else is said."""
        return Path(f"{scan.resolve().stem}_results")


class PtychodusConfig(RunConfig):
    """Reconstruct in the batch folder of ptychodus: reads diffraction.h5 and the product, writes product.h5."""

    example: ClassVar[str] = "ptycho-torch ptychodus batch_folder"
    test_data: Path = setting(..., "folder with diffraction.h5 and product.h5", group="input", reads="folder")
    output_dir: Path = setting(
        None,
        "folder for product.h5 and the results (default: the same; its product is kept as product-in.h5)",
        group="output",
    )

    @classmethod
    def folder_for(cls, scan: Path) -> Path:
        """The folder that was read."""
        return scan


class CheckConfig(ScanSettings, GeometrySettings, DeviceSettings):
    """What a scan's file holds and declares, what is wrong with it, and what a short trial makes of it."""

    example: ClassVar[str] = "ptycho-torch check scan.h5"
    test_data: Path = setting(..., "file or folder of a scan, in any known format", group="input", reads="scan")
    trial: bool = setting(
        True, "reconstruct the middle of the scan, for a verdict and the time that all will take", flags=("--trial",)
    )
    json_output: bool = setting(False, "print JSON", group="output", flags=("--json", "--json-output"))
    strict: bool = setting(False, "end with exit code 5 where the verdict of the trial is bad", group="output")


class ConvertConfig(ScanSettings, GeometrySettings):
    """Write a scan in another program's format."""

    example: ClassVar[str] = "ptycho-torch convert scan.npz scan.cxi"
    test_data: Path = setting(..., "file or folder of a scan, in any known format", group="input", reads="scan")
    result: Path | None = setting(
        None, "a reconstruction.npz of this scan: its probe, object and positions", group="input", reads="model"
    )
    quiet: bool = setting(False, QUIET, group="output")


class SimulateConfig(Config):
    """Simulate a scan of a known object, and write it as a scan file."""

    example: ClassVar[str] = "ptycho-torch simulate --output scan.npz --object siemens --photons 1e5"
    output: Path = setting(..., "scan file to write (.npz)", group="output", flags=("--output", "-o"))
    object_kind: Literal["natural", "lines", "dead-leaves", "grf", "siemens"] = setting(
        "natural", "the object", group="simulation", flags=("--object",)
    )
    probe_kind: Literal["disk", "gaussian", "defocus", "zone-plate", "diffuser", "full-field"] | None = setting(
        None,
        "the probe (default: defocus; full-field in the near field)",
        group="simulation",
        flags=("--probe",),
    )
    modes: int = setting(1, "incoherent probe modes", group="simulation", ge=1, le=8)
    scan_path: Literal["raster", "spiral", "random"] | None = setting(
        None,
        "arrangement and order of the positions (default: raster; spiral in the near field)",
        group="simulation",
        flags=("--scan",),
    )
    n: int = setting(
        64, "detector pixels per side, even", group="simulation", flags=("--n", "-N"), ge=16, multiple_of=2
    )
    positions: int = setting(1600, "number of patterns", group="simulation", ge=1)
    step: float = setting(7.6, "mean distance of neighbouring positions [object px]", group="simulation", gt=0)
    jitter: float = setting(
        1.0, "random displacement of each position, at most this in each direction [px]", group="simulation", ge=0
    )
    aspect: float = setting(1.0, "height over width of the scanned field", group="simulation", gt=0)
    photons: float = setting(
        1e5, "mean photons per pattern", group="simulation", flags=("--photons", "--nphotons"), gt=0
    )
    noise: bool = setting(True, "Poisson noise", group="simulation")
    propagation: Propagation = setting(
        "far", "from object to detector: far field (Fraunhofer) or near field (Fresnel)", group="simulation"
    )
    distance: float | None = setting(
        None, "near field: effective distance from object to detector [m]", group="simulation", gt=0
    )
    wavelength: float | None = setting(None, "near field: wavelength [m] (default: 1e-10)", group="simulation", gt=0)
    pixel_size: float | None = setting(
        None, "near field: effective pixel [m] (default: 1e-7)", group="simulation", flags=("--pixel-size",), gt=0
    )
    seed: int = setting(0, "seed of object, positions and noise", group="simulation", ge=0)
    quiet: bool = setting(False, "print nothing but errors", group="output")

    @model_validator(mode="after")
    def _what_each_propagation_needs(self) -> SimulateConfig:
        lengths = {"--distance": self.distance, "--wavelength": self.wavelength, "--pixel-size": self.pixel_size}
        given = [flag for flag, value in lengths.items() if value is not None]
        if self.propagation == "far" and given:
            raise ValueError(f"{', '.join(given)} without --propagation near: only the near field needs it")
        if self.propagation == "near" and self.distance is None:
            raise ValueError("--propagation near needs --distance METRES, 1e-3 for example")
        if self.propagation == "far" and self.probe_kind == "full-field":
            raise ValueError("--probe full-field needs --propagation near: far-field probes have a dark rim")
        return self


class DemoConfig(Config):
    """Simulate a scan, reconstruct it, and show the reconstruction beside the true object."""

    example: ClassVar[str] = "ptycho-torch demo --object siemens --photons 1e4"
    output_dir: Path = setting(Path("ptycho-torch-demo"), "folder for the scan and the results", group="output")
    object_kind: Literal["dead-leaves", "lines", "siemens"] = setting("dead-leaves", "the object", flags=("--object",))
    photons: float = setting(1e5, "mean photons per pattern", gt=0)
    seed: int = setting(0, "seed of object, positions and noise", ge=0)
    train: bool = setting(
        False, "train a network on one scan and reconstruct another one, instead of using the pretrained network"
    )
    max_epochs: int = setting(6, "epochs of --train", ge=1)
    quiet: bool = setting(False, QUIET, group="output")


class BenchmarkConfig(Config):
    """Compare the pretrained network, and refinements from it and from a flat object, with the best possible result."""

    example: ClassVar[str] = "ptycho-torch benchmark --output_dir benchmark --rows dose,overlap"
    output_dir: Path = setting(..., "folder for benchmark.json, benchmark.csv and benchmark.png", group="output")
    rows: str = setting(
        "dose,overlap,size,probe,object,lines,measured", "groups of experiments, separated by commas", flags=("--rows",)
    )
    data: Path | None = setting(
        None, "folder of measured scans (.npz) that hold a reference object", group="input", reads="folder"
    )
    quiet: bool = setting(False, "print nothing but errors", group="output")


class EvaluateConfig(Config):
    """Compare a reconstruction with another one or with a known object."""

    example: ClassVar[str] = "ptycho-torch evaluate results/reconstruction.npz scan.npz --output_dir comparison"
    output_dir: Path | None = setting(None, "folder for evaluation.json, evaluation.csv and a figure", group="output")
    ramp: bool = setting(False, "remove a linear phase ramp too")
    scale: Literal["none", "amplitude", "complex"] = setting("none", "remove a factor of this kind too")
    inset: int = setting(8, "pixels left out on each side of the rectangle of the scan positions", ge=0)


class BundleConfig(Config):
    """Show what a bundle holds, or check that it is whole; nothing in it is executed."""

    example: ClassVar[str] = "ptycho-torch bundle verify model"
