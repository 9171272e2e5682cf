"""Training and reconstruction under the names by which ptychodus 1.7 calls its PtychoPINN-Torch reconstructor.

A thin face: training is `train_scan` from the pretrained weights, reconstruction is `reconstruct` with the trained
bundle and a few sweeps. Of the many settings, the number of pixels, the mode, epochs, batch size, learning rate and
device mean something here. A trained model is a zip of those settings, as JSON, and of our bundle: nothing in it is
run.
"""

from __future__ import annotations

import inspect
import json
import logging
import tempfile
import zipfile
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ptycho_torch import config_params
from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.scan import Scan
from ptycho_torch.errors import BundleError, DataError, UsageError
from ptycho_torch.files import atomic_path
from ptycho_torch.lightning_utils import CHECKPOINT
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.reconstruction import reconstruct
from ptycho_torch.training.run import train_scan

logger = logging.getLogger(__name__)
SETTINGS, BUNDLE = "configs.json", "wts.h5.zip"
KINDS = ("DataConfig", "ModelConfig", "TrainingConfig", "InferenceConfig")
SWEEPS = 20
"""Of maximum likelihood after the network."""
GROUP_SIZE, LEAST_GROUPS = 4, 16
"""Patterns of a group, and groups of an epoch at least: an epoch is a pass over the scan."""
HALF_A_PIXEL = 0.5
"""ptychodus 1.7 counts to the middle of the probe's window, (N − 1)/2; our positions meet its pixel N//2."""
MOST_SETTINGS = 2**20


class DataloaderFormats(Enum):
    """The one kind of loader that ptychodus asks for."""

    LIGHTNING_ONLY_MODULE = "lightning_only_module"


class ConfigManager:
    """The five groups of settings. Raises UsageError for a mode that this package does not have."""

    def __init__(
        self,
        data_config: Any = None,
        model_config: Any = None,
        training_config: Any = None,
        inference_config: Any = None,
        datagen_config: Any = None,
    ) -> None:
        self.data_config, self.model_config = data_config, model_config
        self.training_config, self.inference_config = training_config, inference_config
        self.datagen_config = datagen_config
        mode = getattr(model_config, "mode", "Unsupervised")
        if mode != "Unsupervised":
            raise UsageError(f"the mode is {mode}: ptycho_torch trains on patterns alone; choose Unsupervised")

    @classmethod
    def from_loaded_model(cls, ptycho_model: PtychoModel) -> ConfigManager:
        """The settings with which a model was trained."""
        return cls(**ptycho_model.configs)

    def validate_arch_compatibility(self, ptycho_model: PtychoModel) -> None:
        """Nothing to check: a bundle brings its own network."""


@dataclass
class PtychoDataLoader:
    """A scan: that of a folder of exported training data, or one in memory."""

    data_dir: Any = None
    config_manager: Any = None
    data_format: Any = None
    output_dir: Any = None
    scan: Scan | None = None
    shape: tuple[int, int] | None = field(default=None)  # of the object that ptychodus expects

    def __post_init__(self) -> None:
        if self.scan is None:
            self.scan = read_scan(_exported(Path(self.data_dir)), domain="counts")
            _check_size(self.scan, self.config_manager)
        if self.output_dir is not None:
            self.output_dir = Path(self.output_dir) / f"run_{datetime.now():%Y%m%d_%H%M%S}"

    @classmethod
    def from_np(
        cls, diff_patterns: np.ndarray, probe: np.ndarray, positions: np.ndarray, config_manager: Any
    ) -> PtychoDataLoader:
        """Of counts `[n, N, N]`, a probe `[mode, N, N]` and positions `[n, 2]` (y, x) in pixels of the object."""
        places = np.asarray(positions, np.float64)
        scan = Scan.from_arrays(diff_patterns, places + HALF_A_PIXEL, probe=probe, domain="counts")
        _check_size(scan, config_manager)
        return cls(config_manager=config_manager, scan=scan, shape=_shape_of_object(places))


def _shape_of_object(places: np.ndarray) -> tuple[int, int]:
    """The size of the object that ptychodus expects, about whose middle it keeps the centre in metres.

    Version 1.7 does not hand it over: it stands in the function that calls, beside the positions. Where it doesn't,
    that of ptychodus' default object is taken, about whose middle the positions are symmetric: min + max + 1.
    """
    frame = inspect.currentframe()
    for _ in range(3):
        frame = None if frame is None else frame.f_back
        given = None if frame is None else frame.f_locals.get("parameters")
        obj = getattr(getattr(given, "product", None), "object_", None)
        if obj is not None:
            height, width = obj.get_array().shape[-2:]
            return int(height), int(width)
    height, width = np.rint(places.min(axis=0) + places.max(axis=0)).astype(int) + 1
    logger.warning(
        "the object is returned on ptychodus' default grid for these positions, %d x %d pixels; for another one, save "
        "the batch folder and run: ptycho-torch ptychodus FOLDER",
        height,
        width,
    )
    return int(height), int(width)


def _exported(folder: Path) -> Path:
    """The training data in a folder (or the file itself)."""
    if folder.is_file():
        return folder
    found = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    named = [file for file in found if file.name == "train_data.npz"]
    if not found:
        raise DataError(
            f"{folder}: no training data in it: in ptychodus, export the training data into this folder first"
        )
    if len(found) > 1 and not named:
        names = ", ".join(file.name for file in found[:4])
        raise DataError(f"{folder}: training data may be in {names}: leave one, or name it train_data.npz")
    return (named or found)[0]


def _check_size(scan: Scan, manager: Any) -> None:
    n = getattr(getattr(manager, "data_config", None), "N", None)
    if n is not None and int(n) != scan.n:
        raise UsageError(
            f"the patterns have {scan.n} x {scan.n} pixels, the model size is {n}: set the Model Size of ptychodus to "
            f"{scan.n}, or crop the patterns to {n}"
        )


class PtychoModel:
    """A model with the settings that it was trained with; `model` names the file."""

    def __init__(
        self,
        model_config: Any = None,
        data_config: Any = None,
        training_config: Any = None,
        inference_config: Any = None,
    ) -> None:
        self.configs = {
            "data_config": data_config,
            "model_config": model_config,
            "training_config": training_config,
            "inference_config": inference_config,
        }
        self.model: Any = None

    @classmethod
    def _new_model(cls, model: type[PtychoPINN_Lightning], config_manager: ConfigManager) -> PtychoModel:
        made = cls(**{name: value for name, value in vars(config_manager).items() if name != "datagen_config"})
        made.model = model()
        return made

    @staticmethod
    def _extract_configs_from_checkpoint(path: str) -> tuple[Any, ...]:
        """The settings in a model file: of data, model, training and inference. Raises BundleError for another file."""
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo(SETTINGS).file_size > MOST_SETTINGS:
                    raise BundleError(f"{path}: its settings are too large to be right: it is no model of ptycho_torch")
                told = json.loads(archive.read(SETTINGS))
            return tuple(getattr(config_params, kind)(**told[kind]) for kind in KINDS)
        except FileNotFoundError:
            raise BundleError(
                f"{path}: no such file; train a model, or load one that ptycho_torch has written"
            ) from None
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError, OSError):
            what = "it is no model of ptycho_torch (a .ckpt of another package holds code, which is not run)"
            raise BundleError(f"{path}: {what}: train one here") from None


class Trainer:
    """Training of a model on a loader's scan, told to callbacks in `_trainer.callbacks`."""

    def __init__(self, model: PtychoModel, loader: PtychoDataLoader, manager: ConfigManager) -> None:
        self._model, self._loader, self._manager = model, loader, manager
        self._trainer = SimpleNamespace(callbacks=[])

    @classmethod
    def _from_lightning(
        cls, model: PtychoModel, dataloader: PtychoDataLoader, orchestration: str, config_manager: ConfigManager
    ) -> Trainer:
        return cls(model, dataloader, config_manager)

    def train(self, orchestration: str = "lightning", experiment_name: str = "") -> None:
        """Train from the pretrained weights, and write the model file into the loader's folder."""
        told, folder, scan = self._manager.training_config, Path(self._loader.output_dir), self._loader.scan
        assert scan is not None
        groups = -(-len(scan) // GROUP_SIZE)
        settings: dict[str, Any] = {"init": "pretrained", "n_images": max(LEAST_GROUPS, groups)}
        for name, ours, kind in (("epochs", "max_epochs", int), ("batch_size", "batch_size", int)):
            if getattr(told, name, None) is not None:
                settings[ours] = kind(getattr(told, name))
        if getattr(told, "learning_rate", None) is not None:
            settings["learning_rate"] = float(told.learning_rate)
        device = "cpu" if str(getattr(told, "device", "")) == "cpu" else "auto"
        train_scan(scan, folder, device=device, say=logger.info, listeners=self._trainer.callbacks, **settings)
        _write_checkpoint(folder / CHECKPOINT, folder / BUNDLE, self._model.configs)
        self._model.model = PtychoPINN_Lightning(folder / CHECKPOINT)


def _write_checkpoint(path: Path, bundle: Path, configs: dict[str, Any]) -> None:
    """A zip of the settings as JSON and of the bundle."""
    told = {type(config).__name__: _plain(vars(config)) for config in configs.values() if config is not None}
    told = {kind: told.get(kind, {}) for kind in KINDS}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(SETTINGS, json.dumps(told, indent=1, sort_keys=True))
        archive.write(bundle, BUNDLE)


def _plain(value: Any) -> Any:
    """Values that JSON has; paths and others become text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


class InferenceEngine:
    """Reconstruction with a trained model."""

    def __init__(self, config_manager: ConfigManager, ptycho_model: PtychoModel) -> None:
        self._manager, self._model = config_manager, ptycho_model

    def predict_and_stitch(self, loader: PtychoDataLoader) -> np.ndarray:
        """The object, complex64 `[1, H, W]`, on the grid that ptychodus expects; 1 where nothing was seen."""
        scan, path = loader.scan, self._model.model.checkpoint
        assert scan is not None
        with tempfile.TemporaryDirectory() as folder:
            try:
                with zipfile.ZipFile(path) as archive:
                    archive.extract(BUNDLE, folder)
            except (zipfile.BadZipFile, KeyError, OSError) as error:
                raise BundleError(f"{path}: it holds no bundle ({error}): train the model again") from None
            result = reconstruct(scan, model=Path(folder) / BUNDLE, refine=SWEEPS, diagnose=False, say=logger.info)
        if result.verdict is not None and result.verdict.status != "good":
            logger.warning("%s", "; ".join(result.verdict.in_lines()))
        if loader.shape is None:
            return result.object[None]
        placed = np.ones((1, *loader.shape), np.complex64)
        result.lay_into(placed[0], (0, 0))
        return placed
