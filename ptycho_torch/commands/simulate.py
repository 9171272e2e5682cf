"""`simulate`: a scan with known truth, as a file."""

from __future__ import annotations

from pathlib import Path

from ptycho_torch.config import SimulateConfig
from ptycho_torch.devices import use_available_threads
from ptycho_torch.errors import UsageError
from ptycho_torch.simulation import NearFieldGeometry, simulate_scan


def simulate(config: SimulateConfig) -> Path:
    """Simulate a scan with these settings and write it; returns its path."""
    if config.output.suffix != ".npz":
        raise UsageError(f"--output {config.output}: a name that ends in .npz is needed")
    use_available_threads()
    lengths = {"distance", "wavelength", "pixel_size"}
    settings = config.model_dump(exclude={"output", "quiet", "step", "jitter", "propagation", *lengths})
    near = None
    if config.propagation == "near":
        given = {f"{name}_m": getattr(config, name) for name in lengths if getattr(config, name) is not None}
        near = NearFieldGeometry(**given)
    scan = simulate_scan(**settings, step_px=config.step, jitter_px=config.jitter, near=near)
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
            f"{scan.realised_photons:.6g} photons per pattern"
        )
    return config.output
