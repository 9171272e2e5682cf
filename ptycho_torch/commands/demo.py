"""`demo`: from a simulated scan to an image that can be compared with the truth."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from ptycho_torch.commands.infer import infer
from ptycho_torch.commands.simulate import simulate
from ptycho_torch.config import DemoConfig, InferenceConfig, SimulateConfig, TrainConfig
from ptycho_torch.evaluation import draw_evaluation, evaluate

POSITIONS, TRAINING_POSITIONS = 256, 400
SWEEPS = 20


def demo(config: DemoConfig) -> Path:
    """Simulate a scan, reconstruct it and compare the result with the true object; returns the folder of the results.

    The pretrained network gives the initial object, which is refined and denoised; with `train` a network trained on a
    scan of another object reconstructs it instead. `results/comparison.png` shows amplitude and phase: reconstruction,
    true object, difference.
    """
    scan, results = config.output_dir / "scan.npz", config.output_dir / "results"
    _simulate(config, scan, seed=config.seed)
    if config.train:
        settings: dict[str, Any] = {"model_path": _trained(config)}
    else:
        settings = {"model_path": Path("pretrained"), "refine": SWEEPS, "denoise": True}
    infer(InferenceConfig(test_data=scan, output_dir=results, quiet=config.quiet, **settings))
    image = results / "comparison.png"
    draw_evaluation(results / "reconstruction.npz", scan, path=image, names=("reconstruction", "true object"))
    if not config.quiet:
        print(f"{in_words(evaluate(results / 'reconstruction.npz', scan))}\ncomparison with the true object: {image}")
    return results


def in_words(scores: dict[str, Any]) -> str:
    """The scores of `evaluate` as a sentence: root mean square errors, and the resolution."""
    amplitude = scores["amplitude_range"] * 10 ** (-scores["amplitude_psnr_db"] / 20)
    phase = scores["phase_range_rad"] * 10 ** (-scores["phase_psnr_db"] / 20)
    return (
        f"against the true object: root mean square error {amplitude:.3f} in amplitude and {phase:.3f} rad in phase "
        f"(PSNR {scores['amplitude_psnr_db']:.1f} and {scores['phase_psnr_db']:.1f} dB); resolution "
        f"{scores['frc_half_bit_px']:.1f} px half period (Fourier ring correlation; 1 px is the best possible)"
    )


def _simulate(config: DemoConfig, path: Path, *, seed: int) -> None:
    positions = TRAINING_POSITIONS if config.train else POSITIONS
    kind, photons = config.object_kind, config.photons
    simulate(
        SimulateConfig(
            output=path, object_kind=kind, positions=positions, photons=photons, seed=seed, quiet=config.quiet
        )
    )


def _trained(config: DemoConfig) -> Path:
    """The folder with the bundle of a network trained on a scan of another object."""
    from ptycho_torch.training.run import train

    scan, model = config.output_dir / "training_scan.npz", config.output_dir / "model"
    _simulate(config, scan, seed=config.seed + 1)
    settings = TrainConfig(
        train_data_file=scan,
        output_dir=model,
        n_images=256,
        max_epochs=config.max_epochs,
        learning_rate=2e-3,
        quiet=config.quiet,
    )
    with contextlib.ExitStack() as stack:
        if config.quiet:  # the one line is that of the reconstruction
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        train(settings)
    return model
