"""An unmodified ptychodus 1.7 lists this package, trains with it, saves, loads and reconstructs: also as a batch."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptycho_torch.data.formats import read_scan
from ptycho_torch.data.formats.writers import write_scan

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import layouts
from layouts import N, Truth

model = pytest.importorskip("ptychodus.model", reason="ptychodus is not installed (pip install ptychodus)")
pytest.importorskip("lightning", reason='lightning is not installed (pip install "ptycho-torch[ptychodus]")')
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("ptychodus")]


@pytest.fixture(scope="module")
def truth() -> Truth:
    return layouts.a_scan(rows=8, columns=11, step=5.0)


@pytest.fixture(scope="module")
def folder(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scan as ptychodus keeps it, with an empty object on the grid of the truth."""
    folder = tmp_path_factory.mktemp("ptychodus")
    empty = Truth(truth.counts, truth.positions, truth.probe, np.ones_like(truth.obj), truth.bad)
    (folder / "given").mkdir()
    write_scan(folder / "in", read_scan(layouts.ptychodus(folder / "given", empty), trust_detector=True))
    return folder


@pytest.fixture(scope="module")
def library() -> Iterator[Any]:
    with model.ModelCore(None, log_level=logging.WARNING) as core:
        library = core.ptychopinn_torch_reconstructor_library
        library.data_settings.model_size.set_value(N)
        library.training_settings.epochs.set_value(2)
        library.training_settings.device.set_value("cpu")
        library.training_settings.num_dataloader_workers.set_value(0)
        yield library


@pytest.fixture(scope="module")
def given(folder: Path) -> Any:
    from ptychodus.api import io, reconstruct

    patterns = io.load_diffraction_data(folder / "in" / "diffraction.h5")
    return reconstruct.prepare_reconstruct_input(patterns, io.load_product(folder / "in" / "product.h5"))


@pytest.fixture(scope="module")
def trained(library: Any, given: Any, folder: Path) -> Path:
    """A model that ptychodus trained and saved."""
    assert [each.name for each in library] == ["Unsupervised", "Supervised"]
    unsupervised = next(iter(library))
    (folder / "training").mkdir()
    unsupervised.export_training_data(folder / "training" / "train_data.npz", given)
    *_, last = unsupervised.train(folder / "training", folder / "out")
    assert unsupervised.is_model_loaded() and len(last.training_loss) == 2
    path = folder / ("model" + unsupervised.get_model_file_extension())
    unsupervised.save_model(path)
    return path


def likeness(found: np.ndarray, truth: Truth) -> float:
    """Of the phases inside the scan, whatever the global phase."""
    (top, left), (bottom, right) = truth.positions.min(0).astype(int), truth.positions.max(0).astype(int)
    inside = [image[top:bottom, left:right] for image in (found, truth.obj)]
    ours, true = (np.angle(image * np.exp(-1j * np.angle(image.sum()))).ravel() for image in inside)
    return float(np.corrcoef(ours, true)[0, 1])


def test_a_model_that_it_trained_reconstructs_on_its_grid(
    library: Any, given: Any, trained: Path, truth: Truth
) -> None:
    again = next(each for each in library if each.name == "Unsupervised")
    again.load_model_from_file(trained)
    *_, last = again.reconstruct(given)
    found = last.product.object_.get_array()
    assert found.shape == (1, *truth.obj.shape) and likeness(found[0], truth) > 0.9


def test_a_batch_of_ptychodus(trained: Path, folder: Path, truth: Truth) -> None:
    from ptychodus.api import io

    (folder / "in" / trained.name).write_bytes(trained.read_bytes())
    (folder / "in" / "settings.ini").write_text("[Processing]\nAlgorithm = PtychoPINN-Torch_Unsupervised\n")
    (folder / "batch").mkdir()
    words = ["-b", "reconstruct", "-i", str(folder / "in"), "-o", str(folder / "batch")]
    done = subprocess.run([sys.executable, "-m", "ptychodus", *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-500:]
    found = io.load_product(sorted((folder / "batch").glob("product*.h5"))[-1]).object_.get_array()
    assert found.shape[-2:] == truth.obj.shape
