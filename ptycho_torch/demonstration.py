"""`simulate` and `demo`: a scan with known truth, and the whole way from such a scan to a picture of it."""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.config import DemoConfig, InferenceConfig, SimulateConfig, TrainConfig
from ptycho_torch.data.simulation import simulate_scan
from ptycho_torch.devices import use_available_threads
from ptycho_torch.errors import UsageError
from ptycho_torch.prediction import infer
from ptycho_torch.training.run import train

DEMO_POSITIONS = 400


def simulate(config: SimulateConfig) -> Path:
    """Simulate a scan as the settings say and write it; returns its path."""
    if config.output.suffix != ".npz":
        raise UsageError(f"--output {config.output}: a name that ends in .npz is needed")
    use_available_threads()
    settings = config.model_dump(exclude={"output", "quiet", "step", "jitter"})
    scan = simulate_scan(**settings, step_px=config.step, jitter_px=config.jitter)
    try:
        scan.save(config.output)
    except OSError as error:
        raise UsageError(
            f"--output {config.output}: it can't be written ({error.strerror}); choose another place"
        ) from None
    if not config.quiet:
        height, width = scan.obj.shape
        print(
            f"{config.output}: {len(scan)} patterns of {config.n} x {config.n}, object {height} x {width}, "
            f"{scan.realised_photons:.6g} photons a pattern"
        )
    return config.output


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
