"""Predictors give the initial object: the network of a bundle, the pretrained one, a reconstruction, or flat."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ptycho_torch.bundle import Bundle, read_bundle
from ptycho_torch.data.held_out import ValidationSet
from ptycho_torch.data.region import Region, on_canvas
from ptycho_torch.data.scan import PROBE_UNITS, Scan
from ptycho_torch.data.subsets import network_subsets, pretrained_subsets
from ptycho_torch.errors import BundleError, DataError, UsageError
from ptycho_torch.model import PtychoModel
from ptycho_torch.networks import NETWORKS, build_network
from ptycho_torch.networks.pretrained import PRETRAINED, pretrained_network
from ptycho_torch.report.results import READERS, GivenObject, read_object
from ptycho_torch.scale import ARBITRARY, IntensityScale, brightest, closed_form, is_calibrated, norm_of
from ptycho_torch.types import Propagation, Reconstruction

FLAT = "flat"
"""The name of the flat initial object."""
FAR_FIELD_ONLY = (
    "the pretrained network is trained on far-field patterns; the initial object is flat, which only a refinement "
    "improves"
)
"""The note for a near-field scan with the pretrained network."""
RECONSTRUCTION = "reconstruction"
"""The kind of a predictor whose object is given."""
LARGEST_OPTION = 1024
"""Of the numbers that describe a network: a forged bundle asks for no more memory than its weights fill."""
STATISTICS_SIZE = 64
"""Patterns per group in patch statistics, where no training has set it."""


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model with its intensity scale that gives the initial object of a scan, and what it requires of the scan."""

    model: PtychoModel
    scale: IntensityScale
    name: str  # in messages
    kind: str  # network, reconstruction or flat, in records
    group_size: int = 1
    statistics_size: int = STATISTICS_SIZE
    n: int | None = None  # side of the patterns that it was trained on; None: any
    propagation: Propagation | None = None  # of the patterns that it was trained on; None: any
    probe: np.ndarray | None = None  # for scans without one
    facts: dict[str, Any] = field(default_factory=dict)
    is_flat: bool = False
    is_general: bool = False  # a network that was not trained on this kind of scan
    notes: tuple[str, ...] = ()  # printed before a run

    def check_fits(self, scan: Scan) -> None:
        """DataError where this was trained on patterns of another size or propagation than the scan's."""
        if self.n is not None and scan.n != self.n:
            raise DataError(
                f"{scan.source}: patterns are {scan.n} x {scan.n}, the {self.name} was trained on "
                f"{self.n} x {self.n}; train on patterns of this size"
            )
        if self.propagation is not None and scan.propagation != self.propagation:
            raise DataError(
                f"{scan.source}: patterns are {scan.propagation} field, the {self.name} was trained on "
                f"{self.propagation} field; train on such a scan, or refine from a flat object"
            )

    def in_photons(self, scan: Scan) -> Scan:
        """The scan with its probe in √photons, by the intensity scale."""
        return replace(scan, probe=self.scale.in_photons(scan.probe))

    @property
    def reconstructs_again(self) -> bool:
        """Whether a network can reconstruct the scan again once its positions are refined."""
        return not self.is_flat and self.kind != RECONSTRUCTION and self.group_size == 1

    def region(
        self,
        scan: Scan,
        chosen: np.ndarray,
        *,
        batch_size: int | None = None,
        validation: ValidationSet | None = None,
        device: torch.device | str = "cpu",
    ) -> Region:
        """The patterns `chosen` of a scan `in_photons`, in the subsets or groups that the network needs."""
        probe = torch.as_tensor(scan.probe)
        if self.group_size > 1:
            batch_size = -(-(batch_size or 32) // self.group_size) * self.group_size
            return Region(scan, chosen, probe, batch_size=batch_size, device=device)
        subsets = self.subsets(scan, chosen)
        return Region(scan, chosen, probe, subsets=subsets, batch_size=batch_size, validation=validation, device=device)

    def subsets(self, scan: Scan, chosen: np.ndarray) -> int:
        """The number of subsets in a sweep of the network; the pretrained network uses more at high dose."""
        probe = torch.as_tensor(scan.probe)
        if self.is_general:
            return pretrained_subsets(scan, chosen, probe)
        return network_subsets(scan.positions[chosen], probe)


def find_predictor(model: str | Path | Reconstruction | Predictor | nn.Module, scan: Scan) -> Predictor:
    """The predictor of this model for this scan.

    A name (`pretrained`, `flat`), a path (a bundle, its folder, a reconstruction in .npz or .h5), a reconstruction, a
    loaded model, or any module that maps a region to its canvas. Raises BundleError, DataError, and UsageError for
    anything else.
    """
    if isinstance(model, Predictor):
        return model
    if isinstance(model, Reconstruction):
        return from_reconstruction(model, scan, source="in memory")
    if isinstance(model, nn.Module):
        return from_network(model, scan)
    if not isinstance(model, (str, Path)):
        raise UsageError(
            f"the model is of type {type(model).__name__}: a name, a path, a Reconstruction, a loaded model or a "
            "torch.nn.Module is needed"
        )
    if str(model) == FLAT:
        scale = scale_of(scan)
        return Predictor(
            PtychoModel(_Flat(), scale=scale.value).eval(),
            scale,
            "a flat object",
            "flat",
            is_flat=True,
            notes=(power_note(scan, scale),),
        )
    if str(model) == PRETRAINED and scan.propagation == "far":
        return _pretrained(scan)
    if str(model) == PRETRAINED:
        flat = find_predictor(FLAT, scan)
        return replace(flat, notes=(*flat.notes, FAR_FIELD_ONLY))
    path = Path(model)
    if path.suffix in READERS:
        return from_reconstruction(read_object(path), scan, source=str(path))
    return load_model(path)


def load_model(path: str | Path) -> Predictor:
    """The model of a bundle, or of the folder that holds one, ready for any scan of its kind.

    Raises BundleError, in one line, where there is none or its parts do not fit together.
    """
    bundle = read_bundle(Path(path))
    try:
        options = dict(bundle.params["network"])
        name, n = options.pop("name"), int(bundle.params["n"])
        if name not in NETWORKS:
            raise BundleError(
                f"{bundle.path}: network {name!r} is unknown here; one of {', '.join(NETWORKS)} is needed"
            )
        scale = IntensityScale.from_dict(bundle.params["intensity_scale"])
        sizes = {key: value for key, value in options.items() if isinstance(value, int) and value > LARGEST_OPTION}
        if sizes:
            raise BundleError(
                f"{bundle.path}: its network has {sizes}, at most {LARGEST_OPTION} of each can be; train again"
            )
        network = build_network(name, **options)
        network.load_state_dict(bundle.weights)
        settings = bundle.params["config"]
        size = int(settings["batch_size"]) * int(settings["gridsize"]) ** 2
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(
            f"{bundle.path}: weights and parameters do not fit together ({reason}); train again"
        ) from None
    return Predictor(
        _ready(network, scale),
        scale,
        f"bundle {bundle.path}",
        name,
        group_size=options["group_size"] if name == "cnn" else 1,
        statistics_size=size,
        n=n,
        propagation=bundle.params.get("propagation", "far"),
        probe=bundle.probe,
        facts=_facts_of(bundle),
    )


def scale_of(scan: Scan) -> IntensityScale:
    """The scale for a model that was not trained on this scan: that of its probe if this is in √photons, as declared or
    by its power, else that of the mean pattern (see docs/scales.md)."""
    photons, norm = scan.photons(), norm_of(scan.probe)
    if not scan.probe_is_guess and is_in_photons(scan, norm, photons):
        return IntensityScale(norm / (scan.n / 2), "from the probe", norm**2, len(scan), norm)
    mean = float(photons.mean())
    return IntensityScale(closed_form(mean, scan.n), ARBITRARY, mean, len(scan), norm)


def is_in_photons(scan: Scan, norm: float, photons: np.ndarray) -> bool:
    """Whether the scan's probe, of this norm, is in √photons."""
    return scan.probe_unit == PROBE_UNITS[0] if scan.probe_unit else is_calibrated(norm, photons)


def power_note(scan: Scan, scale: IntensityScale) -> str:
    """The power of the probe beside the photons of the patterns, and what follows for the amplitude."""
    if scan.probe_is_guess:
        return "without a measured probe, the amplitude is in arbitrary units"
    power, light = norm_of(scan.probe) ** 2, brightest(scan.photons())
    said = f", declared {scan.probe_unit}" if scan.probe_unit else ""
    what = "not in √photons, so that the amplitude is in arbitrary units" if scale.is_arbitrary else "in √photons"
    return f"the probe{said} holds {power:.3g} photons, the brightest patterns {light:.3g}: it is {what}"


def _ready(network: nn.Module, scale: IntensityScale) -> PtychoModel:
    model = PtychoModel(network, scale=scale.value).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def _facts_of(bundle: Bundle) -> dict[str, Any]:
    return {"bundle": str(bundle.path), "sha256": bundle.digest, "network": bundle.params["network"]["name"]}


def _pretrained(scan: Scan) -> Predictor:
    network, recipe = pretrained_network()
    scale = scale_of(scan)
    facts = {"network": "unrolled, pretrained on simulated scans", **recipe}
    model, notes = _ready(network, scale), (power_note(scan, scale),)
    return Predictor(model, scale, "pretrained weights", "pretrained", facts=facts, is_general=True, notes=notes)


class _Flat(nn.Module):
    def forward(self, region: Region) -> Tensor:
        return region.uniform_object()


class _Own(nn.Module):
    """A module of the user, whose output is checked."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, region: Region) -> Tensor:
        obj = self.network(region)
        if not isinstance(obj, Tensor) or tuple(obj.shape) != region.shape or not obj.is_complex():
            found = f"{obj.dtype} {tuple(obj.shape)}" if isinstance(obj, Tensor) else type(obj).__name__
            raise UsageError(
                f"own network {type(self.network).__name__}: it gives {found}, the canvas of its region is needed, "
                f"torch.complex64 {region.shape}"
            )
        return obj.to(torch.complex64)


class _Given(nn.Module):
    """A given object, transmission `[H, W]`."""

    def __init__(self, obj: Tensor, origin: tuple[int, int]) -> None:
        super().__init__()
        self.obj, self.origin = obj, origin

    def forward(self, region: Region) -> Tensor:
        return on_canvas(self.obj.to(region.device), self.origin, region)


def from_reconstruction(given: Reconstruction | GivenObject, scan: Scan, *, source: str) -> Predictor:
    """The object of a reconstruction, named `source`; DataError when it does not lie under this scan.

    Without an intensity scale of its own, that of the scan holds.
    """
    obj, origin = given.object, np.array(given.origin)
    if not np.isfinite(obj).all():
        raise DataError(f"{source}: the object holds NaN or infinite pixels; start from another one, or from flat")
    low, high = scan.positions.min(0), scan.positions.max(0)
    if (low < origin).any() or (high > origin + obj.shape - 1).any():
        raise DataError(
            f"{source}: its object spans {origin.tolist()} to {(origin + obj.shape).tolist()}, the positions of "
            f"{scan.source.name} span {low.round().astype(int).tolist()} to {high.round().astype(int).tolist()}; "
            "start from a reconstruction of this scan"
        )
    scale = scale_of(scan)
    if given.intensity_scale is not None:
        photons, norm = scan.mean_photons(), norm_of(scan.probe)
        scale = IntensityScale(given.intensity_scale, "from the reconstruction", photons, len(scan), norm)
    model = PtychoModel(_Given(torch.as_tensor(obj, dtype=torch.complex64), given.origin), scale=scale.value).eval()
    return Predictor(model, scale, f"reconstruction {source}", RECONSTRUCTION, facts={"start": source})


def from_network(network: nn.Module, scan: Scan) -> Predictor:
    """Any module that maps a `Region` to the object on its canvas: complex64 `region.shape`, transmission.

    It counts as not trained on this scan: the validation set is held out of its region, and a refinement reads the slow
    phase from the patterns again. `region.uniform_object()` is a flat initial object.
    """
    name, scale = type(network).__name__, scale_of(scan)
    model = PtychoModel(_Own(network), scale=scale.value)
    return Predictor(model, scale, f"own network {name}", name, facts={"network": name}, is_general=True)
