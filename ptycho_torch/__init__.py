"""Self-supervised ptychographic reconstruction: diffraction patterns and positions in, a complex object out.

import ptycho_torch as pt
scan = pt.read_scan("scan.npz")
result = pt.reconstruct(scan)
result.plot()
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptycho_torch.data.formats import read_scan
    from ptycho_torch.data.region import Region
    from ptycho_torch.data.scan import Scan
    from ptycho_torch.errors import BundleError, DataError, PtychoError, UsageError
    from ptycho_torch.evaluation import evaluate
    from ptycho_torch.forward import Forward
    from ptycho_torch.predictors import load_model
    from ptycho_torch.reconstruction import reconstruct
    from ptycho_torch.refinement import refine
    from ptycho_torch.simulation.as_scan import simulate
    from ptycho_torch.training.run import train_scan as train
    from ptycho_torch.types import Reconstruction

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "DataError",
    "Forward",
    "PtychoError",
    "Reconstruction",
    "Region",
    "Scan",
    "UsageError",
    "__version__",
    "evaluate",
    "load_model",
    "read_scan",
    "reconstruct",
    "refine",
    "simulate",
    "train",
]

_HOMES = {
    "BundleError": "errors:BundleError",
    "DataError": "errors:DataError",
    "Forward": "forward:Forward",
    "PtychoError": "errors:PtychoError",
    "Reconstruction": "types:Reconstruction",
    "Region": "data.region:Region",
    "Scan": "data.scan:Scan",
    "UsageError": "errors:UsageError",
    "evaluate": "evaluation:evaluate",
    "load_model": "predictors:load_model",
    "read_scan": "data.formats:read_scan",
    "reconstruct": "reconstruction:reconstruct",
    "refine": "refinement:refine",
    "simulate": "simulation.as_scan:simulate",
    "train": "training.run:train_scan",
}
"""Where each public name lives; it is imported when it is first asked for, so that `import ptycho_torch` is quick."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The package, whose public names stay what they are.

    `import ptycho_torch.train`, the module of a command line, would else put itself in the place of the function.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
