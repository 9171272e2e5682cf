"""The content of a bundle as plain data, and whether it is whole."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ptycho_torch.bundle.archive import Archive, locate, open_archive
from ptycho_torch.bundle.contents import (
    DIGEST_NAME,
    MANIFEST,
    PARAMS,
    PROVENANCE,
    WEIGHTS,
    read_arrays,
    read_manifest,
    read_members,
)
from ptycho_torch.bundle.legacy import PICKLE_BYTES, foreign_writer, load_parameters
from ptycho_torch.errors import BundleError

if TYPE_CHECKING:
    pass

LINE_BYTES = 4096
UNUSABLE = {
    "model.pth": "weights kept as a pickle, for a network that is not here",
    "model.keras": "weights of a TensorFlow network",
    "custom_objects.dill": "pickled code, never loaded",
    "torch_scaling_metadata.pt": "pickled by torch, not needed here",
}


def inspect_bundle(path: str | Path) -> dict[str, Any]:
    """The content of a bundle, ours or foreign, as plain data; nothing in it is run.

    Ours: kind, format, version, members with sha256 and size, params, intensity scale, provenance. Foreign: the
    members, the parameters that are plain data, and `unusable`: name → why. Raises BundleError in one line.
    """
    with open_archive(locate(path)) as archive:
        facts = {"path": str(archive.path), "sha256": archive.digest}
        writer = None if {MANIFEST, WEIGHTS} & archive.sizes.keys() else foreign_writer(archive.sizes)
        return facts | (_foreign_facts(archive, writer) if writer else _own_facts(archive))


def verify_bundle(path: str | Path) -> dict[str, Any]:
    """Checks every digest of a bundle of ours, and those of `bundle_digest.txt` when it lies beside the bundle.

    Raises BundleError that names the first member, or the file, that disagrees, or what is not finite.
    """
    with open_archive(locate(path)) as archive:
        manifest = read_manifest(archive)
        read_arrays(archive, read_members(archive, manifest))
    return {
        "path": str(archive.path),
        "sha256": archive.digest,
        "members": manifest["members"],
        "digest_file": _compared_with_digest_file(archive),
    }


def _own_facts(archive: Archive) -> dict[str, Any]:
    manifest = read_manifest(archive)
    members = read_members(archive, manifest)
    params = json.loads(members[PARAMS])
    return {
        "kind": "ptycho_torch bundle",
        **manifest,
        "intensity_scale": params.get("intensity_scale"),
        "params": params,
        "provenance": json.loads(members[PROVENANCE]),
    }


def _foreign_facts(archive: Archive, writer: str) -> dict[str, Any]:
    unusable = {
        name: UNUSABLE[PurePosixPath(name).name] for name in archive.sizes if PurePosixPath(name).name in UNUSABLE
    }
    pickles = [name for name in archive.sizes if PurePosixPath(name).name in ("manifest.dill", "params.dill")]
    parameters: dict[str, Any] = {}
    for name in pickles:
        try:
            parameters[name], refused = load_parameters(archive.read(name, PICKLE_BYTES))
            unusable |= {f"{name}: {key}": f"needs {reason}" for key, reason in refused.items()}
        except (ValueError, BundleError) as error:
            unusable[name] = str(error)
    return {"kind": f"bundle of {writer}", "members": archive.sizes, "parameters": parameters, "unusable": unusable}


def _compared_with_digest_file(archive: Archive) -> str:
    """Whether the file of digests beside a bundle agrees or is absent; BundleError when it gives another sha256."""
    beside = archive.path.parent / DIGEST_NAME
    if not beside.is_file():
        return "absent"
    with open(beside, encoding="ascii", errors="replace") as file:
        digest, _, name = [*file.readline(LINE_BYTES).split(), "", "", ""][:3]
    if name != archive.path.name:
        return "is about another file"
    if digest != archive.digest:
        raise BundleError(
            f"{archive.path}: altered: {DIGEST_NAME} beside it names another sha256 than {archive.digest[:12]}…; "
            "one of the two was replaced after training"
        )
    return "agrees"
