"""Where a reconstruction starts: the network of a bundle, the pretrained one, a reconstruction, or a flat object."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptycho_torch.bundle import Bundle, read_bundle
from ptycho_torch.data.held_out import Judges
from ptycho_torch.data.region import Region, on_canvas
from ptycho_torch.data.scan import Scan
from ptycho_torch.data.subsets import bright_subsets, handy_subsets
from ptycho_torch.errors import BundleError, DataError
from ptycho_torch.model import PtychoModel
from ptycho_torch.networks import NETWORKS, build_network
from ptycho_torch.networks.pretrained import PRETRAINED, pretrained_network
from ptycho_torch.scale import IntensityScale, closed_form, is_calibrated, norm_of

FLAT = "flat"
"""The word for a start that knows nothing."""
RECONSTRUCTION = "reconstruction"
"""The kind of start that is an object already."""
STATISTICS_SIZE = 64
"""Patterns a group in patch statistics where no training has set it."""


@dataclass(frozen=True, eq=False)
class Start:
    """A model made ready: what gives the first object, the scale, and what a scan needs to match it."""

    model: PtychoModel
    scale: IntensityScale
    name: str  # for people
    kind: str  # what it is, for people
    group_size: int = 1
    statistics_size: int = STATISTICS_SIZE
    n: int | None = None  # side of the patterns that it was made for; None: any
    probe: np.ndarray | None = None  # for scans that bring none
    facts: dict[str, Any] = field(default_factory=dict)
    is_flat: bool = False
    is_general: bool = False  # a network that was not trained on this kind of scan

    def network_probe(self, probe: np.ndarray) -> Tensor:
        """A probe in network units: power (N/2)² for a probe of the training probe's norm."""
        return torch.as_tensor(probe, dtype=torch.complex64) * self.network_unit(probe.shape[-1])

    def network_unit(self, n: int) -> float:
        """What a probe n × n is multiplied by for network units."""
        return n / 2 / self.scale.probe_norm

    @property
    def looks_again(self) -> bool:
        """Whether there is a network that gives another object when positions are known better."""
        return not self.is_flat and self.kind != RECONSTRUCTION and self.group_size == 1

    def region(
        self,
        scan: Scan,
        chosen: np.ndarray,
        *,
        batch_size: int | None = None,
        judges: Judges | None = None,
        device: torch.device | str = "cpu",
    ) -> Region:
        """The patterns `chosen` as this start's network visits them; a network of groups sees whole groups."""
        probe = self.network_probe(scan.probe)
        if self.group_size > 1:
            batch_size = -(-(batch_size or 32) // self.group_size) * self.group_size
            return Region(scan, chosen, probe, batch_size=batch_size, device=device)
        subsets = self.subsets(scan, chosen)
        return Region(scan, chosen, probe, subsets=subsets, batch_size=batch_size, judges=judges, device=device)

    def subsets(self, scan: Scan, chosen: np.ndarray) -> int:
        """In how many subsets the network's sweeps visit these patterns: a generalist's more in bright light."""
        probe = self.network_probe(scan.probe)
        if self.is_general:
            return bright_subsets(scan, chosen, probe)
        return handy_subsets(scan.positions[chosen], probe)


def find_start(path: Path, scan: Scan) -> Start:
    """The start that `path` names: `pretrained`, `flat`, a reconstruction.npz, or a bundle and its folder."""
    if str(path) == FLAT:
        scale = scale_of(scan)
        return Start(PtychoModel(_Flat(), scale=scale.value).eval(), scale, "a flat object", "flat", is_flat=True)
    if str(path) == PRETRAINED:
        return _pretrained(scan)
    if path.suffix == ".npz":
        return _from_file(path, scan)
    return from_bundle(path)


def from_bundle(path: Path) -> Start:
    """The model of a bundle; BundleError in one line when its parts do not fit together."""
    bundle = read_bundle(path)
    try:
        options = dict(bundle.params["network"])
        name, n = options.pop("name"), int(bundle.params["n"])
        if name not in NETWORKS:
            raise BundleError(
                f"{bundle.path}: network {name!r} is unknown here; one of {', '.join(NETWORKS)} is needed"
            )
        scale = IntensityScale.from_dict(bundle.params["intensity_scale"])
        network = build_network(name, **options)
        network.load_state_dict(bundle.weights)
        settings = bundle.params["config"]
        size = int(settings["batch_size"]) * int(settings["gridsize"]) ** 2
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(
            f"{bundle.path}: weights and parameters do not fit together ({reason}); train again"
        ) from None
    return Start(
        _ready(network, scale),
        scale,
        f"bundle {bundle.path}",
        name,
        group_size=options["group_size"] if name == "cnn" else 1,
        statistics_size=size,
        n=n,
        probe=bundle.probe,
        facts=_facts_of(bundle),
    )


def scale_of(scan: Scan) -> IntensityScale:
    """The scale for a model that was not trained on this scan: that of its probe when this counts photons, else of
    the mean pattern (see docs/scales.md)."""
    photons, norm = scan.mean_photons(), norm_of(scan.probe)
    if is_calibrated(norm, photons) and not scan.probe_is_guess:
        return IntensityScale(norm / (scan.n / 2), "from the probe", norm**2, len(scan), norm)
    return IntensityScale(closed_form(photons, scan.n), "measured", photons, len(scan), norm)


def _ready(network: nn.Module, scale: IntensityScale) -> PtychoModel:
    model = PtychoModel(network, scale=scale.value).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _facts_of(bundle: Bundle) -> dict[str, Any]:
    return {"bundle": str(bundle.path), "sha256": bundle.digest, "network": bundle.params["network"]["name"]}


def _pretrained(scan: Scan) -> Start:
    network, recipe = pretrained_network()
    scale = scale_of(scan)
    facts = {"network": "unrolled, pretrained on simulated scans", **recipe}
    return Start(_ready(network, scale), scale, "pretrained weights", "pretrained", facts=facts, is_general=True)


class _Flat(nn.Module):
    def forward(self, region: Region) -> Tensor:
        return torch.ones(region.shape, dtype=torch.complex64, device=region.device)


class _Given(nn.Module):
    """An object that is there already, transmission `[H, W]`, in the unit of the region that asks for it."""

    def __init__(self, obj: Tensor, origin: tuple[int, int], scale: float) -> None:
        super().__init__()
        self.obj, self.origin, self.scale = obj, origin, scale

    def forward(self, region: Region) -> Tensor:
        return on_canvas(self.obj.to(region.device) * (self.scale / region.level), self.origin, region)


def _from_file(path: Path, scan: Scan) -> Start:
    """The object of a reconstruction.npz (`object`, `origin`); DataError when it does not lie under this scan."""
    try:
        with path.open("rb") as opened:  # numpy leaves a damaged file open
            file = np.load(opened)
            obj, origin = file["object"], np.asarray(file["origin"]).astype(int)
            scale = float(file["intensity_scale"])
    except (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: it can't be read as a reconstruction ({error}); give a reconstruction.npz") from None
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; a reconstruction.npz with object, origin, intensity_scale") from None
    if obj.ndim != 2 or origin.shape != (2,):
        raise DataError(f"{path}: the object has shape {obj.shape}, one picture (H, W) with its origin is needed")
    if not np.isfinite(obj).all():
        raise DataError(f"{path}: the object holds NaN or infinite pixels; start from another one, or from flat")
    low, high = scan.positions.min(0), scan.positions.max(0)
    if (low < origin).any() or (high > origin + obj.shape - 1).any():
        raise DataError(
            f"{path}: its object spans {origin.tolist()} to {(origin + obj.shape).tolist()}, the positions of "
            f"{scan.source.name} span {low.round().astype(int).tolist()} to {high.round().astype(int).tolist()}; "
            "start from a reconstruction of this scan"
        )
    found = IntensityScale(scale, "from the reconstruction", scan.mean_photons(), len(scan), norm_of(scan.probe))
    given = _Given(torch.as_tensor(obj, dtype=torch.complex64), (int(origin[0]), int(origin[1])), scale)
    model = PtychoModel(given, scale=scale).eval()
    return Start(model, found, f"reconstruction {path}", RECONSTRUCTION, facts={"start": str(path)})
