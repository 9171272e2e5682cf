"""The names by which ptychodus trains and reconstructs: what it imports, what it hands over, what it gets back."""

from __future__ import annotations

import pickle
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import ptycho_torch as pt
from ptycho_torch.api.base_api import (
    ConfigManager,
    DataloaderFormats,
    InferenceEngine,
    PtychoDataLoader,
    PtychoModel,
    Trainer,
)
from ptycho_torch.config_params import DataConfig, DatagenConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.lightning_utils import find_best_checkpoint
from ptycho_torch.model import PtychoPINN_Lightning

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import layouts
from layouts import N, Truth


@pytest.fixture(scope="module")
def truth() -> Truth:
    return layouts.a_scan(rows=8, columns=11, step=5.0)


def settings(n: int = N, mode: str = "Unsupervised") -> dict:
    return {
        "data_config": DataConfig(N=n, C=4, grid_size=(2, 2), x_bounds=(0.1, 0.9)),
        "model_config": ModelConfig(mode=mode, C_model=4),
        "training_config": TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-4, device="cpu", n_devices=1),
        "inference_config": InferenceConfig(middle_trim=32),
    }


class Listener:
    def __init__(self) -> None:
        self.losses: list[float] = []
        self.validation: list[float] = []

    def on_train_epoch_end(self, trainer, module) -> None:
        self.losses.append(float(trainer.callback_metrics[PtychoPINN_Lightning.loss_name]))

    def on_validation_epoch_end(self, trainer, module) -> None:
        if not trainer.sanity_checking:
            self.validation.append(float(trainer.callback_metrics[PtychoPINN_Lightning.val_loss_name]))


@pytest.fixture(scope="module")
def trained(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Listener]:
    """A model, trained as ptychodus does it."""
    folder = tmp_path_factory.mktemp("door")
    layouts.ptychodus_training(folder, truth)
    manager = ConfigManager(**pickle.loads(pickle.dumps(settings())), datagen_config=DatagenConfig())
    loader = PtychoDataLoader(
        data_dir=folder,
        config_manager=manager,
        data_format=DataloaderFormats("lightning_only_module"),
        output_dir=folder / "out",
    )
    model = PtychoModel._new_model(model=PtychoPINN_Lightning, config_manager=manager)
    trainer = Trainer._from_lightning(model=model, dataloader=loader, orchestration="lightning", config_manager=manager)
    listener = Listener()
    trainer._trainer.callbacks.append(listener)
    trainer.train(orchestration="lightning", experiment_name="")
    path = find_best_checkpoint(loader.output_dir)
    assert path is not None
    return path, listener


def loaded(path: Path) -> tuple[PtychoModel, ConfigManager]:
    data, model, training, inference = PtychoModel._extract_configs_from_checkpoint(str(path))
    kept = {"data_config": data, "model_config": model, "training_config": training, "inference_config": inference}
    made = PtychoModel(**kept)
    made.model = PtychoPINN_Lightning.load_from_checkpoint(path, **kept)
    manager = ConfigManager.from_loaded_model(made)
    manager.validate_arch_compatibility(made)
    return made, manager


def likeness(ours: np.ndarray, truth: Truth) -> float:
    """Correlation of the phases between the outermost positions."""
    (y0, x0), (y1, x1) = np.ceil(truth.positions.min(0)).astype(int), truth.positions.max(0).astype(int)
    phases = [np.angle(o[y0:y1, x0:x1] * np.exp(-1j * np.angle(o[y0:y1, x0:x1].sum()))) for o in (ours, truth.obj)]
    return float(np.corrcoef(phases[0].ravel(), phases[1].ravel())[0, 1])


def test_training_tells_its_losses_and_leaves_a_model_without_code(trained: tuple[Path, Listener]) -> None:
    path, listener = trained
    assert len(listener.losses) == 1 and len(listener.validation) == 1 and np.isfinite(listener.losses[0])
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["configs.json", "wts.h5.zip"]
    data, *_ = PtychoModel._extract_configs_from_checkpoint(str(path))
    assert data.N == N and data.grid_size == [2, 2]


def test_the_object_lies_on_the_grid_of_the_object_of_ptychodus(trained: tuple[Path, Listener], truth: Truth) -> None:
    model, manager = loaded(trained[0])
    obj = SimpleNamespace(get_array=lambda: np.ones((1, *truth.obj.shape)))
    parameters = SimpleNamespace(product=SimpleNamespace(object_=obj))
    counts = np.where(truth.bad, 0, truth.counts)

    def of_ptychodus(parameters: object) -> PtychoDataLoader:
        return PtychoDataLoader.from_np(
            diff_patterns=counts, probe=truth.probe[None], positions=truth.positions - 0.5, config_manager=manager
        )

    found = InferenceEngine(config_manager=manager, ptycho_model=model).predict_and_stitch(of_ptychodus(parameters))
    assert found.shape == (1, *truth.obj.shape) and found.dtype == np.complex64
    assert likeness(found[0], truth) > 0.95


def test_without_an_object_the_default_grid_is_taken_and_said(truth: Truth, caplog) -> None:
    low, high = truth.positions.min(0) - 0.5, truth.positions.max(0) - 0.5
    manager = ConfigManager(**settings())
    loader = PtychoDataLoader.from_np(truth.counts, truth.probe[None], truth.positions - 0.5, manager)
    assert loader.shape == tuple(np.rint(low + high).astype(int) + 1)
    assert "default grid" in caplog.text and "ptycho-torch ptychodus" in caplog.text


def test_what_cannot_be_is_named(truth: Truth, tmp_path: Path) -> None:
    with pytest.raises(pt.UsageError, match="Unsupervised"):
        ConfigManager(**settings(mode="Supervised"))
    with pytest.raises(pt.DataError, match="export the training data"):
        PtychoDataLoader(data_dir=tmp_path, config_manager=ConfigManager(**settings()))
    layouts.ptychodus_training(tmp_path, truth)
    with pytest.raises(pt.UsageError, match="32 x 32 pixels, the model size is 128"):
        PtychoDataLoader(data_dir=tmp_path, config_manager=ConfigManager(**settings(n=128)))
    foreign = tmp_path / "model.ckpt"
    for content in (b"\x80\x04pickle", b""):
        foreign.write_bytes(content)
        with pytest.raises(pt.BundleError, match="holds code, which is not run"):
            PtychoModel._extract_configs_from_checkpoint(str(foreign))
    with pytest.raises(pt.BundleError, match="no such file"):
        PtychoModel._extract_configs_from_checkpoint(str(tmp_path / "nowhere.ckpt"))
