"""The weights that come with the package: one safetensors file whose header says what network they are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ptycho_torch.errors import BundleError
from ptycho_torch.files import atomic_path

PRETRAINED = "pretrained"
"""The word for these weights where a bundle is asked for."""
SHIPPED = Path(__file__).with_name("pretrained.safetensors")


def write_pretrained(
    path: Path, weights: dict[str, Tensor], *, options: dict[str, int], recipe: dict[str, Any]
) -> Path:
    """Write weights of an `unrolled` network with the options that build it and the recipe that trained it."""
    from safetensors.torch import save_file

    words = {"network": json.dumps(options, sort_keys=True), "recipe": json.dumps(recipe, sort_keys=True)}
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary, metadata=words)
    return path


def read_pretrained(path: Path = SHIPPED) -> tuple[dict[str, Tensor], dict[str, int], dict[str, Any]]:
    """Weights, the options of their network, and their recipe; BundleError when the file is none of ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            words = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return weights, json.loads(words["network"]), json.loads(words["recipe"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{path}: pretrained weights can't be read ({error}); install the package again") from None
