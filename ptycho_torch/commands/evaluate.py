"""`evaluate`: two objects compared, as numbers on the terminal and files in a folder."""

from __future__ import annotations

from typing import Any

from ptycho_torch.config import EvaluateConfig
from ptycho_torch.evaluation import evaluate
from ptycho_torch.files import as_json


def run(path_a: str, path_b: str, config: EvaluateConfig) -> dict[str, Any]:
    """`ptycho-torch evaluate`: the scores as JSON on standard output, and files where a folder is named."""
    result = evaluate(
        path_a, path_b, output_dir=config.output_dir, ramp=config.ramp, scale=config.scale, inset=config.inset
    )
    shown = {name: value for name, value in result.items() if name != "frc"}
    print(as_json(shown))
    return result
