"""The pretrained weights of the package: one safetensors file with the options of the networks in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ptycho_torch.errors import BundleError
from ptycho_torch.files import atomic_path
from ptycho_torch.networks import build_network
from ptycho_torch.networks.posterior import PosteriorMean

PRETRAINED = "pretrained"
"""The name of these weights in place of a bundle."""
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
    """The networks of a file; BundleError for any other file."""
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


def posterior_mean() -> PosteriorMean:
    """The pretrained network that removes photon noise from a refined object."""
    pretrained = read_pretrained()
    network = PosteriorMean(**pretrained.options["posterior"]).eval()
    _take(network, pretrained.posterior)
    return network


def pretrained_network() -> tuple[nn.Module, dict[str, Any]]:
    """The pretrained `unrolled` network, its options and its recipe."""
    pretrained = read_pretrained()
    network = build_network("unrolled", n=64, group_size=1, **pretrained.options["network"])
    _take(network, pretrained.network)
    return network, {**pretrained.options["network"], **pretrained.recipe}


def _take(network: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"the pretrained weights are of another version ({reason}); install again") from None
