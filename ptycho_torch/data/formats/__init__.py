"""Scan files: a module for each format, and `read_scan`, which finds the one for a file, a folder or half of a pair."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ptycho_torch.data.formats import (
    cxi,
    eiger,
    electron,
    hdf5,
    hxn,
    mapping,
    matlab,
    microscope,
    nexus,
    npz,
    pair,
    ptychodus,
    ptychodus_npz,
    ptylab,
    ptypy,
    ptyrad,
    stack,
)
from ptycho_torch.data.formats.beside import MOST_FILES
from ptycho_torch.data.formats.source import NOTHING, Declaration, Source, Stated, as_scan, prepared
from ptycho_torch.data.scan import Scan
from ptycho_torch.errors import DataError, one_line
from ptycho_torch.files import sha256_of
from ptycho_torch.types import Domain

__all__ = ["READERS", "Declaration", "Reader", "Source", "Stated", "as_scan", "open_source", "prepared", "read_scan"]


class Reader(Protocol):
    """The interface of a format's module."""

    NAME: str
    DECLARES: Declaration

    def sniff(self, path: Path) -> bool:
        """Whether a file or folder is of this format: by keys or first bytes, by a name only in `microscope`."""

    def companions(self, path: Path) -> list[Path]:
        """The files that make the scan, from the name of one of them."""

    def read(self, path: Path) -> Source:
        """What the files hold, in their own terms; DataError in one line."""


READERS: tuple[Reader, ...] = (
    ptychodus_npz,
    npz,
    ptychodus,
    nexus,
    cxi,
    ptypy,
    ptyrad,
    pair,
    ptylab,
    hxn,
    eiger,
    electron,
    matlab,
    mapping,
    microscope,
    stack,
)
"""In order of certainty: the keys of the first ones are the most particular."""


def open_source(path: str | Path, *, mapping_text: str | None = None) -> Source:
    """What a file or folder of any known format holds, in its own terms; with a mapping, any HDF5.

    Raises DataError, in one line, for one that is missing, unknown or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if mapping_text is not None:
        return _with_digest(mapping.mapped(path, mapping.mapping_of(mapping_text)))
    try:
        known = next((reader for reader in READERS if reader.sniff(path)), None)
        if known is not None:
            return _read(known, path)
        inside = _scans_in(path) if path.is_dir() else []
        if len(inside) == 1:
            return _read(inside[0][1], inside[0][0])
        is_empty = path.is_dir() and not any(path.iterdir())
    except OSError as error:
        raise DataError(f"{path}: it can't be read ({error.strerror or error})") from None
    if inside:
        raise DataError(f"{path}: scans may be in {', '.join(file.name for file, _ in inside[:4])}: give one of them")
    names = ", ".join(reader.NAME for reader in READERS)
    if path.is_file() and hdf5.is_hdf5(path):
        lost = hdf5.dangling(path)
        if lost:
            raise DataError(f"{path}: {lost}: copy the file that it names beside, or mend the link")
        way = "say what is where, by --map diffraction=… (docs/formats.md)"
        raise DataError(f"{path}: its HDF5 is of no known format: {way}")
    found = "an empty folder" if is_empty else "a folder without a scan" if path.is_dir() else "not a scan file"
    raise DataError(f"{path}: {found} of a known format: {names} can be read")


def _scans_in(folder: Path) -> list[tuple[Path, Reader]]:
    """The files of a folder that are of a known format, each with its reader."""
    found = list[tuple[Path, Reader]]()
    for file in sorted(folder.iterdir())[:MOST_FILES]:
        known = next((reader for reader in READERS if file.is_file() and reader.sniff(file)), None)
        if known is not None:
            found.append((file, known))
    return found


def _with_digest(source: Source) -> Source:
    """The source, with the digest of the file that holds its patterns."""
    return replace(source, digest=sha256_of(source.path))


def _read(reader: Reader, path: Path) -> Source:
    """What a reader makes of a file; what it stumbles over in a damaged one is said in a line."""
    try:
        return _with_digest(reader.read(path))
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, struct.error) as error:
        found = f"it is no {reader.NAME} that can be read ({one_line(error)})"
        raise DataError(f"{path}: {found}: write or copy it again") from None


def read_scan(
    path: str | Path, *, domain: Domain | None = None, trust_detector: bool = False, stated: Stated = NOTHING
) -> Scan:
    """The scan in a file or folder of any known format; `domain` overrides what it declares or a test would find.

    `stated` is what is known beside the file: an energy, a distance, a part of the frames. With `trust_detector`, all
    pixels, values and frames that the file does not mask are used as they are.

    Raises DataError, in one line, for a file that is missing, unknown, damaged or holds no usable scan.
    """
    return as_scan(open_source(path, mapping_text=stated.mapping), stated, domain=domain, trust_detector=trust_detector)
