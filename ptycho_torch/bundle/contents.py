"""The content of a bundle, its writer and its reader."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_torch.bundle.archive import (
    BUNDLE_NAME,
    MEMBER_BYTES,
    TOTAL_BYTES,
    Archive,
    altered,
    locate,
    open_archive,
    quoted,
    write_archive,
)
from ptycho_torch.bundle.legacy import PICKLE_BYTES, dump_parameters, foreign_writer, load_flat_parameters
from ptycho_torch.errors import BundleError, PtychoError, UsageError, one_line
from ptycho_torch.files import atomic_path, sha256_of

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "ptycho_torch-bundle"
VERSION = 1

DIGEST_NAME = "bundle_digest.txt"
MANIFEST = "manifest.json"
WEIGHTS = "diffraction_to_obj/model.safetensors"
PARAMS = "diffraction_to_obj/params.json"
LEGACY = "diffraction_to_obj/params.dill"
PROBE = "probe.npy"
PROVENANCE = "provenance.json"
MEMBERS = (WEIGHTS, PARAMS, LEGACY, PROBE, PROVENANCE)

MANIFEST_BYTES = 2**20
JSON_BYTES = 64 * 2**20
NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '<c8', 'fortran_order': False, "
    rb"'shape': \((\d{1,9}), (\d{1,9}), (\d{1,9})\), \} *\n",
    re.DOTALL,
)
LIMITS = {PARAMS: JSON_BYTES, LEGACY: PICKLE_BYTES, PROVENANCE: JSON_BYTES}


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained model: its weights, its scale and its probe, checked against their digests."""

    weights: dict[str, Tensor]
    params: dict[str, Any]  # the authority: resolved config, intensity scale, probe and pixels, training summary
    legacy: dict[str, Any]  # flat primitives, for older tools
    probe: np.ndarray  # complex64 [mode, N, N]
    provenance: dict[str, Any]
    digest: str  # sha256 of the archive
    path: Path


def check_destination(directory: str | Path) -> None:
    """Refuses a folder that can't be written, or that holds a `wts.h5.zip` which is not ours to replace.

    Writes nothing. Raises UsageError or BundleError in one line.
    """
    directory = Path(directory)
    existing = next(folder for folder in (directory, *directory.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        reason = f"{existing}: {error.strerror or error}"
        raise UsageError(f"--output_dir {directory}: can't be written ({reason}); choose another folder") from None
    path = directory / BUNDLE_NAME
    if not os.path.lexists(path):
        return
    try:
        with open_archive(locate(path)) as archive:
            read_manifest(archive)
    except BundleError as error:
        raise BundleError(f"{error}; it stays untouched: choose another --output_dir or move it away") from None


def write_bundle(
    directory: str | Path,
    *,
    weights: Mapping[str, Tensor],
    params: Mapping[str, Any],
    legacy: Mapping[str, Any],
    probe: np.ndarray,
    provenance: Mapping[str, Any],
) -> Path:
    """Writes `wts.h5.zip` and `bundle_digest.txt` into a folder, whole or not at all, and returns the bundle's path.

    Equal content gives an equal sha256. Raises UsageError when the folder can't be written, BundleError when it holds
    a bundle of another format or when the content does not make a bundle, PtychoError when it is not finite.
    """
    check_destination(directory)
    path = Path(directory) / BUNDLE_NAME
    lost = _not_finite(weights, probe)
    if lost is not None:
        raise PtychoError(f"{path}: not written, {lost} would hold NaN or infinite values; train again, more slowly")
    try:
        members = {
            WEIGHTS: _weights_bytes(weights),
            PARAMS: _json_bytes(params),
            LEGACY: dump_parameters(legacy),
            PROBE: _probe_bytes(probe),
            PROVENANCE: _json_bytes(provenance),
        }
    except (TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{path}: the content makes no bundle ({one_line(error)})") from None
    _check_sizes(path, members)
    members[MANIFEST] = _json_bytes(_manifest(members))
    try:
        with atomic_path(path) as archive, atomic_path(path.parent / DIGEST_NAME) as digests:
            write_archive(archive, members)
            digests.write_text(_digest_lines(archive, members), encoding="ascii")
    except OSError as error:
        reason = error.strerror or error
        raise BundleError(f"{path}: can't be written ({reason}); choose another --output_dir") from None
    return path


def read_bundle(path: str | Path) -> Bundle:
    """The model in `wts.h5.zip`, given as the file or as its folder; every digest is checked and no code is run.

    Raises BundleError in one sentence: missing, not a zip, truncated, altered (and where), newer, foreign, not finite.
    """
    with open_archive(locate(path)) as archive:
        members = read_members(archive, read_manifest(archive))
    weights, probe = read_arrays(archive, members)
    return Bundle(
        weights=weights,
        params=_checked(archive, PARAMS, _json_object, members),
        legacy=_checked(archive, LEGACY, load_flat_parameters, members),
        probe=probe,
        provenance=_checked(archive, PROVENANCE, _json_object, members),
        digest=archive.digest,
        path=archive.path,
    )


def read_manifest(archive: Archive) -> dict[str, Any]:
    """The manifest of a bundle of ours; BundleError for a foreign or a newer one."""
    path, names = archive.path, archive.sizes
    if MANIFEST not in names:
        if WEIGHTS in names:
            raise altered(path, MANIFEST, "missing from the archive")
        writer = foreign_writer(names)
        if writer:
            raise BundleError(
                f"{path}: foreign: a bundle of {writer}; its weights can't be used here: its "
                "decoders convolve before they upsample and end in a head of other sizes; use the pretrained network "
                "(no --model_path), or `train`; `ptycho-torch bundle inspect` reads its parameters"
            )
        listed = ", ".join(quoted(name) for name in list(names)[:3]) or "nothing"
        raise BundleError(f"{path}: foreign: a zip that holds {listed} and no {MANIFEST}; a bundle of ours is needed")
    try:
        manifest = _json_object(archive.read(MANIFEST, MANIFEST_BYTES))
    except (ValueError, RecursionError):
        raise altered(path, MANIFEST, "not a JSON object") from None
    if manifest.get("format") != FORMAT:
        found = quoted(manifest.get("format"))
        raise BundleError(f"{path}: foreign: its manifest has format {found}; {FORMAT!r} is needed")
    version = manifest.get("version")
    if type(version) is not int or version < 1:
        raise altered(path, MANIFEST, f"format version {quoted(version)}, a whole number is needed")
    if version > VERSION:
        found = f"format version {str(version)[:20]}"
        raise BundleError(f"{path}: newer: {found}, up to {VERSION} can be read; update ptycho_torch")
    return manifest


def read_members(archive: Archive, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Every member but the manifest, with the size and sha256 that the manifest gives; BundleError names the other."""
    records = manifest.get("members")
    if type(records) is not dict or set(records) != set(MEMBERS):
        raise altered(archive.path, MANIFEST, "its list of members is not that of a bundle")
    for name in sorted(set(archive.sizes) - {MANIFEST, *MEMBERS}):
        raise altered(archive.path, quoted(name), "an unexpected member")
    members = {}
    for name in MEMBERS:
        record = records[name] if type(records[name]) is dict else {}
        if name not in archive.sizes:
            raise altered(archive.path, name, "missing from the archive")
        if archive.sizes[name] != record.get("size"):
            expected = quoted(record.get("size"))
            raise altered(archive.path, name, f"{archive.sizes[name]} bytes, its manifest has {expected}")
        members[name] = archive.read(name, LIMITS.get(name, MEMBER_BYTES))
        if hashlib.sha256(members[name]).hexdigest() != record.get("sha256"):
            raise altered(archive.path, name, "its sha256 is not the one in the manifest")
    return members


def read_arrays(archive: Archive, members: Mapping[str, bytes]) -> tuple[dict[str, Tensor], np.ndarray]:
    """Weights and probe; BundleError where they can't be read or are not finite."""
    weights, probe = _checked(archive, WEIGHTS, _weights, members), _checked(archive, PROBE, _probe, members)
    lost = _not_finite(weights, probe)
    if lost is not None:
        raise BundleError(f"{archive.path}: {lost} holds NaN or infinite values; train again, more slowly")
    return weights, probe


def _not_finite(weights: Mapping[str, Tensor], probe: np.ndarray) -> str | None:
    """The name of an array with a number that is not finite."""
    for name, tensor in weights.items():
        if not bool((tensor.float() if tensor.element_size() < 4 else tensor).isfinite().all()):
            return f"the weight {quoted(name)}"
    return None if np.isfinite(probe).all() else "the probe"


def _checked(archive: Archive, name: str, parse: Callable[[bytes], Any], members: Mapping[str, bytes]) -> Any:
    try:
        return parse(members[name])
    except (ValueError, RecursionError) as error:
        raise altered(archive.path, name, one_line(error)) from None


def _manifest(members: Mapping[str, bytes]) -> dict[str, Any]:
    records = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in members.items()}
    return {"format": FORMAT, "version": VERSION, "backend": "torch", "members": records}


def _digest_lines(archive: Path, members: Mapping[str, bytes]) -> str:
    rows = [(sha256_of(archive), archive.stat().st_size, BUNDLE_NAME)]
    rows += [(hashlib.sha256(members[name]).hexdigest(), len(members[name]), name) for name in sorted(members)]
    return "".join(f"{digest}  {size:>12}  {name}\n" for digest, size, name in rows)


def _check_sizes(path: Path, members: Mapping[str, bytes]) -> None:
    """Refuses content that could not be read again."""
    for name, data in members.items():
        limit = LIMITS.get(name, MEMBER_BYTES)
        if len(data) > limit:
            raise BundleError(f"{path}: {name} would take {len(data)} bytes, at most {limit} fit")
    total = sum(map(len, members.values()))
    if total + MANIFEST_BYTES > TOTAL_BYTES:
        raise BundleError(f"{path}: the members would take {total} bytes, at most {TOTAL_BYTES} fit")


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    """Strict JSON with sorted keys; numbers that JSON can't hold become null."""
    strict = json.loads(json.dumps(value, default=lambda item: item.tolist()), parse_constant=lambda _: None)
    return (json.dumps(strict, indent=2, sort_keys=True) + "\n").encode("ascii")


def _json_object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if type(value) is not dict:
        raise ValueError("not a JSON object")
    return value


def _weights_bytes(weights: Mapping[str, Tensor]) -> bytes:
    """safetensors of the weights as they are, each with memory of its own, on the CPU."""
    import torch
    from safetensors.torch import save

    own = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach()) for name, tensor in weights.items()
    }
    return save(own)


def _weights(data: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except (SafetensorError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"no safetensors ({error})") from None


def _probe_bytes(probe: np.ndarray) -> bytes:
    probe = np.asarray(probe)
    if probe.ndim != 3 or probe.shape[1] != probe.shape[2] or not np.iscomplexobj(probe):
        raise ValueError(f"probe {probe.dtype} {probe.shape}, complex (mode, N, N) is needed")
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(probe, dtype="<c8"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def _probe(data: bytes) -> np.ndarray:
    """complex64 [mode, N, N] from an NPY whose shape accounts for exactly the bytes that follow."""
    header = NPY_HEADER.match(data)
    if not header or 10 + int.from_bytes(header[1], "little") != header.end():
        raise ValueError("not an NPY of version 1.0 with complex64 (mode, N, N)")
    modes, height, width = (int(side) for side in header.groups()[1:])
    values = data[header.end() :]
    if height != width or not values or modes * height * width * 8 != len(values):
        raise ValueError(f"{len(values)} bytes of data do not make ({modes}, {height}, {width}) of complex64")
    return np.frombuffer(values, "<c8").reshape(modes, height, width).astype(np.complex64)
