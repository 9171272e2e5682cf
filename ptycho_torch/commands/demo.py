"""`simulate` and `demo`: a scan with known truth, and the whole way from such a scan to a picture of it."""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.commands.infer import infer
from ptycho_torch.commands.simulate import simulate
from ptycho_torch.config import DemoConfig, InferenceConfig, SimulateConfig, TrainConfig
from ptycho_torch.training.run import train

DEMO_POSITIONS = 400


def demo(config: DemoConfig) -> Path:
    """Simulate two scans of different objects, train on the first, reconstruct the second; returns the results."""
    folder, quiet = config.output_dir, config.quiet
    train_scan, test_scan, results = folder / "train.npz", folder / "test.npz", folder / "results"
    for seed, path in enumerate((train_scan, test_scan)):
        simulate(SimulateConfig(output=path, positions=DEMO_POSITIONS, seed=seed, quiet=quiet))
    train(
        TrainConfig(
            train_data_file=train_scan,
            output_dir=folder / "model",
            n_images=256,
            max_epochs=config.max_epochs,
            learning_rate=2e-3,
            quiet=quiet,
        )
    )
    infer(InferenceConfig(model_path=folder / "model", test_data=test_scan, output_dir=results, quiet=quiet))
    return results
