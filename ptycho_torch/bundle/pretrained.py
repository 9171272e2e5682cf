"""The weights that come with the package: one safetensors file whose header says what network they are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ptycho_torch.errors import BundleError
from ptycho_torch.files import atomic_path

PRETRAINED = "pretrained"
"""The word for these weights where a bundle is asked for."""
SHIPPED = Path(__file__).with_name("pretrained.safetensors")
PARTS = ("network", "posterior")


class Pretrained(NamedTuple):
    """Weights of the two networks, the options that build them, and the recipe that trained them."""

    network: dict[str, Tensor]  # of an `unrolled` network
    posterior: dict[str, Tensor]  # of a `PosteriorMean`; empty while that is not trained
    options: dict[str, dict[str, int]]  # `network` and `posterior`
    recipe: dict[str, Any]


def write_pretrained(path: Path, found: Pretrained) -> Path:
    """Write the weights of both networks to one file."""
    from safetensors.torch import save_file

    weights = {f"{part}.{name}": value.contiguous() for part in PARTS for name, value in getattr(found, part).items()}
    words = {name: json.dumps(getattr(found, name), sort_keys=True) for name in ("options", "recipe")}
    with atomic_path(path) as temporary:
        save_file(weights, temporary, metadata=words)
    return path


def read_pretrained(path: Path = SHIPPED) -> Pretrained:
    """The networks of a file; BundleError when it is none of ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            words = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        network, posterior = (
            {name.removeprefix(f"{part}."): value for name, value in weights.items() if name.startswith(f"{part}.")}
            for part in PARTS
        )
        return Pretrained(network, posterior, json.loads(words["options"]), json.loads(words["recipe"]))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BundleError(f"{path}: pretrained weights can't be read ({error}); install the package again") from None
