"""`train`: from a scan to a bundle."""

from __future__ import annotations

import logging
import math
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError

from ptycho_torch import __version__
from ptycho_torch.bundle import check_destination, write_bundle
from ptycho_torch.config import TrainConfig
from ptycho_torch.data.formats import Stated, read_scan
from ptycho_torch.data.geometry import turned
from ptycho_torch.data.grouping import central_groups, central_region, group_neighbours, split_by_position
from ptycho_torch.data.scan import Scan
from ptycho_torch.devices import own_switches, resolve_device
from ptycho_torch.errors import DataError, UsageError
from ptycho_torch.model import PtychoModel
from ptycho_torch.networks import build_network
from ptycho_torch.networks.pretrained import pretrained_network
from ptycho_torch.predictors import Predictor, is_in_photons, load_model
from ptycho_torch.progress import ProgressLine
from ptycho_torch.refinement.initial_probe import with_probe_from_patterns, with_refined_probe
from ptycho_torch.report import one_line
from ptycho_torch.report.patch_statistics import StatisticsRecorder, illuminated_pixels
from ptycho_torch.scale import IntensityScale, closed_form, norm_of
from ptycho_torch.training.regions import Anchors, Regions, as_loader, spread_anchors
from ptycho_torch.verdict.figures import figures_of
from ptycho_torch.verdict.geometry import with_settled_geometry

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from ptycho_torch.training.lightning import LightningPtycho

VALIDATION_REGIONS = 8
JUDGED = 128
"""Patterns on which a trained network is compared with none."""
LAST_CHECKPOINT = "last.ckpt"
LOG_NAME = "training_log.jsonl"


class _Trained(NamedTuple):
    bundle: Path
    scale: IntensityScale
    misfit: str  # of the last epoch, in words


def train(config: TrainConfig) -> Path:
    """Train with these settings and write `wts.h5.zip` into the output folder; returns its path."""
    config = _profiled(config)
    device = resolve_device(config.accelerator, config.device)
    with own_switches(device, is_deterministic=config.deterministic):
        check_destination(config.output_dir)
        _check_no_links(config.output_dir)
        say = ProgressLine(quiet=config.quiet).say
        scan = _read(config.train_data_file, config)
        test = None
        if config.test_data_file is not None:
            test = _read(config.test_data_file, config)
        trained = _train(scan, test, config, device, say)
    print(one_line(trained.scale, f"bundle {trained.bundle}", misfit=trained.misfit))
    return trained.bundle


def _read(path: Path, config: TrainConfig) -> Scan:
    """The scan in a file, in the geometry that the settings give and that can be."""
    scan = read_scan(
        path,
        domain=config.measurement_domain,
        trust_detector=config.trust_detector,
        stated=Stated(**config.stated()),
    )
    return with_settled_geometry(turned(scan, **config.geometry()))


def train_scan(
    scan: Scan,
    output_dir: str | Path | None = None,
    *,
    validation: Scan | None = None,
    device: str = "auto",
    say: Callable[[str], object] | None = None,
    listeners: Sequence[Any] = (),
    **settings: Any,
) -> Predictor:
    """A model trained on a scan, ready for `reconstruct`.

    `settings` are those of the command `train`, by their names: `max_epochs=20, network="unrolled", gridsize=2, …`.
    Without `validation`, a part of the scan is held out. The bundle, checkpoints and log stay in `output_dir`; without
    it nothing stays. Nothing is printed; `say` takes lines of text. `listeners` are callbacks of any Lightning, which
    are told of the end of each epoch. Raises UsageError for a setting that does not
    exist or has no meaning, DataError for a scan that cannot be trained on.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory()) if output_dir is None else output_dir
        config = _config_of(scan, validation, Path(folder), {"quiet": True, "accelerator": device, **settings})
        check_destination(config.output_dir)
        _check_no_links(config.output_dir)
        place = resolve_device(config.accelerator, config.device)
        stack.enter_context(own_switches(place, is_deterministic=config.deterministic))
        stack.enter_context(_trainer_silenced())
        model = load_model(_train(scan, validation, config, place, say or (lambda _: None), listeners).bundle)
    if output_dir is not None:
        return model
    return replace(model, name="a model trained on these patterns", facts={**model.facts, "bundle": "not kept"})


def _config_of(scan: Scan, validation: Scan | None, folder: Path, settings: dict[str, Any]) -> TrainConfig:
    files: dict[str, Any] = {
        "train_data_file": scan.source,
        "test_data_file": validation.source if validation else None,
    }
    try:
        return _profiled(TrainConfig(**files, output_dir=folder, **settings))
    except TypeError as error:  # a setting that is an argument already
        raise UsageError(f"train: {error}") from None
    except ValidationError as error:
        complaints = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}".lstrip(": ") for each in error.errors()]
        raise UsageError(f"train: {'; '.join(complaints)}") from None


@contextmanager
def _trainer_silenced() -> Iterator[None]:
    """What `keep_quiet` does to warnings and logs ends here."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    with warnings.catch_warnings():
        try:
            yield
        finally:
            logger.setLevel(level)


def _train(
    scan: Scan,
    test: Scan | None,
    config: TrainConfig,
    device: torch.device,
    say: Callable[[str], object],
    listeners: Sequence[Any] = (),
) -> _Trained:
    """Trains on the scan with these settings, and writes the bundle."""
    scan, test = _prepared(scan, test, config, device, say)
    for note in (*scan.describe(), *(test.describe() if test else ())):
        say(note)
    kept, held_out = (
        (np.arange(len(scan)), None) if test else split_by_position(scan.positions, config.validation_fraction)
    )
    group_size = config.gridsize**2
    if len(kept) < group_size:
        raise DataError(
            f"{config.train_data_file}: {len(kept)} patterns are left for training, a group of --gridsize "
            f"{config.gridsize} needs {group_size}; take a smaller --gridsize or a larger scan"
        )
    scale = fit_scale(scan, kept, config)
    torch.manual_seed(config.seed)
    model = PtychoModel(_network(config, scan.n), scale=scale.value, learn_scale=config.intensity_scale == "learned")
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    regions = _regions(scan, kept, scale, config)
    validation = _regions(test, np.arange(len(test)), scale, config) if test else None
    if held_out is not None and len(held_out) >= group_size:
        validation = _regions(scan, held_out, scale, config)
    calibrated = (
        math.log(scale.probe_norm / (scan.n / 2)) if is_in_photons(scan, scale.probe_norm, scan.photons(kept)) else None
    )
    trainer = _fit(model, regions, validation, config, device, calibrated_log_scale=calibrated, listeners=listeners)
    if config.intensity_scale == "learned":
        scale = replace(scale, value=float(model.log_scale.detach().exp()), origin=f"learned, from {scale.origin}")
    bundle = _write_bundle(model, scan, scale, config, trainer)
    if config.log_patch_stats:
        _log_patch_statistics(model, regions, config)
    _warn_if_useless(load_model(bundle), scan)
    return _Trained(bundle, scale, _misfit(trainer, config))


def _warn_if_useless(trained: Predictor, scan: Scan) -> None:
    """A warning where the object of a network explains its own scan no better than a model without object."""
    chosen = central_region(scan.positions, min(len(scan), JUDGED))
    if trained.group_size > 1:
        chosen = chosen[group_neighbours(scan.positions[chosen], trained.group_size).reshape(-1)]
    scan = trained.in_photons(scan)
    with torch.inference_mode():
        region = trained.region(scan, chosen)
        found = figures_of(trained.model(region), region)
    if not found.r_over_null < 1:
        print(
            f"warning: the trained network is worse than none: its misfit is {found.r_over_null:.3g} x that of a model "
            "without object; train longer or with a smaller --learning-rate, or use the pretrained network",
            file=sys.stderr,
            flush=True,
        )


def _misfit(trainer: pl.Trainer, config: TrainConfig) -> str:
    """The last epoch's misfit in words: of held-out patterns, where there are any."""
    losses = trainer.callback_metrics
    held_out = "val_loss" in losses
    name = "held-out misfit" if held_out else "misfit of the training patterns"
    kind = "per pixel" if config.torch_loss_mode == "poisson" else "(mean absolute error of the amplitudes)"
    return f"{name} {float(losses['val_loss' if held_out else 'train_loss']):.4g} {kind}"


def fit_scale(scan: Scan, kept: np.ndarray, config: TrainConfig) -> IntensityScale:
    """The initial intensity scale of training, fitted on the training split."""
    nphotons = config.nphotons
    closed = config.intensity_scale == "closed-form" or (config.intensity_scale == "learned" and nphotons is not None)
    photons = nphotons if closed and nphotons is not None else scan.mean_photons(kept)
    return IntensityScale(
        value=closed_form(photons, scan.n),
        origin="closed form" if closed else "measured",
        nphotons=photons,
        n_patterns=len(kept),
        probe_norm=norm_of(scan.probe),
    )


def _check_no_links(folder: Path) -> None:
    """Refuses an output folder where training would write or delete files elsewhere, through a link."""
    checkpoints, logs = folder / "checkpoints", folder / "logs"
    replaced = [checkpoints, *sorted(checkpoints.glob("*.ckpt")), logs, logs / "metrics.csv", folder / LOG_NAME]
    for path in replaced:
        if path.is_symlink():
            raise UsageError(
                f"--output_dir {folder}: {path} is a link to {path.readlink()}, where training would replace files; "
                "remove the link or choose another folder"
            )


def _profiled(config: TrainConfig) -> TrainConfig:
    if config.profile != "smoke":
        return config
    return config.model_copy(
        update={"max_epochs": min(config.max_epochs, 2), "n_images": min(config.n_images, 4 * config.batch_size)}
    )


def _prepared(
    scan: Scan, test: Scan | None, config: TrainConfig, device: torch.device, say: Callable[[str], object]
) -> tuple[Scan, Scan | None]:
    """Both scans with the probe of the settings."""
    if config.probe_from == "patterns":
        scan = with_probe_from_patterns(scan, device=device, say=say)
    if config.probe_update:
        scan = with_refined_probe(scan, device=device, say=say)
    scan = _with_probe_mask(scan, config)
    if test is None:
        return scan, None
    test = _with_probe_mask(test, config)
    if test.propagation != scan.propagation:
        raise DataError(
            f"{config.test_data_file}: patterns are {test.propagation} field, those of {config.train_data_file} are "
            f"{scan.propagation} field; both scans need one propagation"
        )
    if test.n != scan.n:
        raise DataError(
            f"{config.test_data_file}: patterns are {test.n} x {test.n}, those of {config.train_data_file} are "
            f"{scan.n} x {scan.n}; both scans need one size"
        )
    found = config.probe_from == "patterns" or config.probe_update
    if found or (test.probe_origin != scan.probe_origin and test.probe_is_guess):
        test = replace(test, probe=scan.probe, probe_origin=f"from {config.train_data_file.name}")
    return scan, test


def _with_probe_mask(scan: Scan, config: TrainConfig) -> Scan:
    if not config.probe_mask:
        return scan
    return scan.with_masked_probe(diameter=config.probe_mask_diameter, sigma=config.probe_mask_sigma)


def _network(config: TrainConfig, n: int) -> torch.nn.Module:
    if config.init == "random":
        return build_network(config.network, **network_options(config, n))
    network, learned = pretrained_network()
    sizes = {"stages": "stages", "sweeps": "sweeps", "network_width": "width"}
    asked = {name: getattr(config, name) for name in sizes if name in config.model_fields_set}
    if any(learned[sizes[name]] != value for name, value in asked.items()):
        needed = ", ".join(f"{name} {learned[size]}" for name, size in sizes.items())
        raise UsageError(f"--init pretrained: the weights are for {needed}; leave the flags for these out")
    return network


def network_options(config: TrainConfig, n: int) -> dict[str, int]:
    """The arguments of `build_network` for this network."""
    sizes = {"stages": config.stages, "sweeps": config.sweeps, "width": config.network_width}
    if config.init == "pretrained":
        _, learned = pretrained_network()
        sizes = {name: learned[name] for name in sizes}
    return {"n": n, "group_size": config.gridsize**2, **sizes}


def _regions(scan: Scan, indices: np.ndarray, scale: IntensityScale, config: TrainConfig) -> Regions:
    group_size = config.gridsize**2
    size = min(config.batch_size * group_size, len(indices) // group_size * group_size)
    return Regions(
        scan,
        indices,
        torch.as_tensor(scale.in_photons(scan.probe)),
        size=size,
        group_size=group_size if config.network == "cnn" else 1,
        mean_photons=scan.mean_photons(indices),
    )


def _fit(
    model: PtychoModel,
    regions: Regions,
    validation: Regions | None,
    config: TrainConfig,
    device: torch.device,
    *,
    calibrated_log_scale: float | None,
    listeners: Sequence[Any] = (),
) -> pl.Trainer:
    """Runs the trainer and leaves the best weights in the model."""
    import pytorch_lightning as pl

    from ptycho_torch.training.callbacks import GracefulStop, Listeners, StopWhenDiverged, same_signal_handlers
    from ptycho_torch.training.lightning import LightningPtycho, accelerator_of, keep_quiet

    keep_quiet()
    steps = max(1, math.ceil(config.n_images / config.batch_size))
    module = LightningPtycho(
        model,
        likelihood=config.torch_loss_mode,
        tv_weight=config.tv_weight,
        learning_rate=config.learning_rate,
        schedule=config.scheduler,
        monitored=config.checkpoint_monitor,
        calibrated_log_scale=calibrated_log_scale,
        scan_digest=regions.scan.digest,
    )
    resumed = _checkpoint_to_resume(config, module) if config.resume else None
    monitored = config.checkpoint_monitor if validation is not None else "train_loss"
    config.output_dir.mkdir(parents=True, exist_ok=True)
    checkpoints = _checkpoints(config, monitored)
    trainer = pl.Trainer(
        accelerator=accelerator_of(device),
        devices=1,
        precision=config.precision,
        max_epochs=config.max_epochs,
        accumulate_grad_batches=config.accumulate_grad_batches,
        gradient_clip_val=config.gradient_clip or None,
        callbacks=[
            StopWhenDiverged(),
            *checkpoints,
            *_other_callbacks(config, monitored),
            Listeners(listeners),
            GracefulStop(),
        ],
        logger=_logger(config),
        enable_checkpointing=config.enable_checkpointing,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
    )
    sampler = Anchors(len(regions), regions=steps, seed=config.seed)
    if resumed is not None:  # the first epoch's order is drawn before the trainer tells the sampler where it is
        sampler.set_epoch(resumed.epochs)
    validation_loader = None
    if validation is not None:
        anchors = spread_anchors(validation.positions, size=validation.size, most=VALIDATION_REGIONS)
        validation_loader = as_loader(validation, anchors, workers=0)
    with same_signal_handlers():
        trainer.fit(
            module,
            as_loader(regions, sampler, workers=config.num_workers),
            validation_loader,
            ckpt_path=resumed.path if resumed is not None else None,
            weights_only=True,
        )
    best = checkpoints[0].best_model_path if checkpoints else ""
    if best:
        # The network of the best epoch with the scale of the last: the likelihood does not depend on it.
        state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
        prefix = "model.network."
        weights = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        model.network.load_state_dict(weights)
    model.to("cpu")
    return trainer


def _checkpoints(config: TrainConfig, monitored: str) -> list[Any]:
    if not config.enable_checkpointing:
        return []
    from ptycho_torch.training.callbacks import BestCheckpoints, LastCheckpoint

    folder = config.output_dir / "checkpoints"
    if not config.resume:
        for stale in folder.glob("*.ckpt"):
            stale.unlink()
    return [
        BestCheckpoints(
            dirpath=folder,
            filename="best-{epoch:03d}",
            monitor=monitored,
            mode=config.checkpoint_mode,
            save_top_k=config.checkpoint_save_top_k,
            enable_version_counter=False,
        ),
        LastCheckpoint(folder / LAST_CHECKPOINT),
    ]


def _other_callbacks(config: TrainConfig, monitored: str) -> list[Any]:
    from pytorch_lightning.callbacks import EarlyStopping

    from ptycho_torch.training.callbacks import JsonLines, Progress

    callbacks: list[Any] = [
        JsonLines(config.output_dir / LOG_NAME, append=config.resume),
        EarlyStopping(monitored, mode=config.checkpoint_mode, patience=config.early_stop_patience),
    ]
    return callbacks if config.quiet else [*callbacks, Progress()]


def _logger(config: TrainConfig) -> Any:
    from pytorch_lightning import loggers

    if config.logger == "csv":
        return loggers.CSVLogger(config.output_dir, name="logs", version="")
    try:
        if config.logger == "tensorboard":
            return loggers.TensorBoardLogger(config.output_dir, name="tensorboard", version="")
        if config.logger == "mlflow":
            return loggers.MLFlowLogger("ptycho_torch", tracking_uri=f"sqlite:///{config.output_dir}/mlflow.db")
    except ModuleNotFoundError:
        raise UsageError(
            f"--logger {config.logger}: its package is not installed; pip install 'ptycho-torch[{config.logger}]'"
        ) from None
    return False


class _Checkpoint(NamedTuple):
    path: Path
    epochs: int  # that are finished


def _checkpoint_to_resume(config: TrainConfig, module: LightningPtycho) -> _Checkpoint:
    """The last checkpoint; UsageError where it is damaged, or was made by a training that this one can't go on with."""
    last = config.output_dir / "checkpoints" / LAST_CHECKPOINT
    if not last.is_file():
        raise UsageError(f"--resume: there is no checkpoint {last}; leave --resume out to start afresh")
    try:
        state = torch.load(last, map_location="cpu", weights_only=True)
        shapes, epochs = {name: value.shape for name, value in state["state_dict"].items()}, int(state["epoch"]) + 1
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, AttributeError, EOFError, UnpicklingError):
        raise UsageError(f"--resume: {last} is damaged; leave --resume out to start afresh") from None
    if shapes != {name: value.shape for name, value in module.state_dict().items()}:
        raise UsageError(f"--resume: {last} holds another network; give its options, or leave --resume out")
    if state.get("scan", module.scan_digest) != module.scan_digest:
        raise UsageError(
            f"--resume: {last} was trained on another scan than {config.train_data_file}; give that, or leave "
            "--resume out"
        )
    if epochs > config.max_epochs:
        raise UsageError(f"--resume: {last} holds {epochs} epochs already; give at least --max_epochs {epochs}")
    return _Checkpoint(last, epochs)


def _write_bundle(
    model: PtychoModel, scan: Scan, scale: IntensityScale, config: TrainConfig, trainer: pl.Trainer
) -> Path:
    settings = config.model_dump(mode="json", exclude={"output_dir", "resume", "quiet"})
    for name in ("train_data_file", "test_data_file"):
        settings[name] = Path(settings[name]).name if settings[name] else None
    losses = {name: float(value) for name, value in trainer.callback_metrics.items()}
    params = {
        "network": {"name": config.network, **network_options(config, scan.n)},
        "config": settings,
        "intensity_scale": scale.as_dict(),
        "n": scan.n,
        "probe": {"modes": len(scan.probe), "norm": scale.probe_norm, "origin": scan.probe_origin},
        "pixel_size_m": scan.pixel_size_m,
        "wavelength_m": scan.wavelength_m,
        **({} if scan.propagation == "far" else {"propagation": scan.propagation}),  # far field by default
        "training": {"epochs": trainer.current_epoch, "steps": trainer.global_step, **losses},
    }
    provenance = {
        "ptycho_torch": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "command": ["ptycho-torch", "train"],
        "inputs": {scan.source.name: scan.digest},
        "seed": config.seed,
    }
    return write_bundle(
        config.output_dir,
        weights=model.network.state_dict(),
        params=params,
        legacy=_legacy_parameters(scan, scale, settings),
        probe=scan.probe,
        provenance=provenance,
    )


def _legacy_parameters(scan: Scan, scale: IntensityScale, settings: dict[str, Any]) -> dict[str, Any]:
    """The flat parameters that older tools look up in params.dill."""
    return {
        "N": scan.n,
        "gridsize": settings["gridsize"],
        "batch_size": settings["batch_size"],
        "nepochs": settings["max_epochs"],
        "n_groups": settings["n_images"],
        "nphotons": scale.nphotons,
        "intensity_scale": scale.value,
        "intensity_scale.trainable": settings["intensity_scale"] == "learned",
        "probe.trainable": False,
        "probe.mask": settings["probe_mask"],
        "model_type": "pinn",
        "torch_loss_mode": settings["torch_loss_mode"],
        "train_data_file_path": settings["train_data_file"],
        "test_data_file_path": settings["test_data_file"],
        "_version": __version__,
    }


@torch.inference_mode()
def _log_patch_statistics(model: PtychoModel, regions: Regions, config: TrainConfig) -> None:
    """Statistics of what the finished network predicts for batches of the training split, as training sees them."""
    scan = regions.scan
    recorder = StatisticsRecorder("train", illuminated_pixels(scan.probe), limit=config.patch_stats_limit)
    for group in central_groups(scan.positions, regions.indices, regions.size):
        if recorder.full:
            break
        region = regions.of(group)
        obj = model(region)
        patches = torch.cat([region.forward.patches(obj, batch) for batch in region.batches()])
        print(recorder.add(patches.numpy()))
    recorder.write(config.output_dir)
