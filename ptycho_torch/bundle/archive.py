"""The zip archive: equal content gives equal bytes; no header is trusted when it is read."""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from ptycho_torch.errors import BundleError, one_line

BUNDLE_NAME = "wts.h5.zip"
MEMBER_COUNT = 32
MEMBER_BYTES = 2 * 2**30
TOTAL_BYTES = 4 * 2**30
DIRECTORY_BYTES = 2**20
END_RECORD = struct.Struct("<4s4H2LH")
COMMENT_BYTES = 2**16

DAMAGE = (
    *(OSError, EOFError, ValueError, RuntimeError, OverflowError, MemoryError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)
"""What zipfile raises on headers and data that were cut short, changed or invented."""


def write_archive(path: Path, members: Mapping[str, bytes]) -> None:
    """A zip of these members: sorted, stored, dated 1980-01-01, mode 0644; equal members give an equal sha256."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, members[name])


@dataclass(frozen=True)
class Archive:
    """An open zip whose names and announced sizes are within bounds; its content is not yet checked."""

    path: Path
    digest: str  # sha256 of the whole file
    sizes: dict[str, int]  # announced bytes of each member
    zip: zipfile.ZipFile

    def read(self, name: str, limit: int = MEMBER_BYTES) -> bytes:
        """The bytes of one member, never more than it announces or than `limit`; BundleError when they disagree."""
        if self.sizes[name] > limit:
            raise BundleError(f"{self.path}: {name} is {self.sizes[name]} bytes, at most {limit} are read")
        try:
            with self.zip.open(name) as member:
                data = member.read(self.sizes[name] + 1)
        except DAMAGE as error:
            raise altered(self.path, name, one_line(error)) from None
        if len(data) != self.sizes[name]:
            raise altered(self.path, name, f"{len(data)} bytes where {self.sizes[name]} are announced")
        return data


def quoted(value: object) -> str:
    """Somebody else's name or value, short and printable."""
    return ascii(value)[:80]


def altered(path: Path, member: str, reason: str) -> BundleError:
    """The refusal of a file in which one member is not what was written."""
    return BundleError(f"{path}: altered: {member}: {reason}; copy the bundle again or train again")


def locate(path: str | Path) -> Path:
    """The bundle file that a path means: the file itself, or `wts.h5.zip` in the folder; BundleError when missing."""
    path = Path(path)
    if path.is_dir():
        if not (path / BUNDLE_NAME).exists():
            raise BundleError(f"{path}: no {BUNDLE_NAME} in this folder; give the --output_dir of a finished training")
        path = path / BUNDLE_NAME
    if not path.exists():
        raise BundleError(f"{path}: no such file; give a {BUNDLE_NAME} or the folder that holds it")
    if not path.is_file():
        raise BundleError(f"{path}: not a regular file; give a {BUNDLE_NAME} or the folder that holds it")
    if not os.access(path, os.R_OK):
        raise BundleError(f"{path}: can't be read by this user; check its permissions")
    return path


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """A zip opened for reading, its member names, count and announced sizes checked; BundleError names the problem."""
    with open(path, "rb") as file:
        _check_end(path, file)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            archive = zipfile.ZipFile(file)
        except DAMAGE as error:
            raise altered(path, "the list of members", one_line(error)) from None
        with archive:
            yield Archive(path, digest, _checked_sizes(path, archive.infolist()), archive)


def _check_end(path: Path, file: BinaryIO) -> None:
    """Refuses what is no zip, what lost its end, and a list of members too long to be worth reading."""
    size = file.seek(0, 2)
    file.seek(max(0, size - END_RECORD.size - COMMENT_BYTES))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < END_RECORD.size:
        file.seek(0)
        if file.read(4) == b"PK\3\4":
            raise BundleError(f"{path}: truncated: the end of the archive is missing; copy it again")
        raise BundleError(f"{path}: not a zip archive ({size} bytes); a {BUNDLE_NAME} written by training is needed")
    *_, count, length, _, _ = END_RECORD.unpack_from(tail, at)
    # A 64-bit record overrides these two numbers; only an archive beyond 2 GiB needs one.
    extended = tail[max(0, at - 20) : at].startswith(b"PK\6\7") and size < zipfile.ZIP64_LIMIT
    if count > MEMBER_COUNT or length > DIRECTORY_BYTES or extended:
        raise BundleError(f"{path}: too many members in the archive, a bundle has at most {MEMBER_COUNT}; not a bundle")


def _checked_sizes(path: Path, entries: list[zipfile.ZipInfo]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    if len(entries) > MEMBER_COUNT:
        raise BundleError(f"{path}: {len(entries)} members, a bundle has at most {MEMBER_COUNT}; not a bundle")
    for entry in entries:
        name = entry.filename
        if _is_unsafe(entry):
            raise BundleError(f"{path}: unsafe member name {quoted(entry.orig_filename)}; do not use this file")
        if name in sizes:
            raise BundleError(f"{path}: member {quoted(name)} occurs twice; do not use this file")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise altered(path, quoted(name), f"compression method {entry.compress_type}, stored or deflated is needed")
        if entry.file_size > MEMBER_BYTES:
            raise BundleError(
                f"{path}: {quoted(name)} announces {entry.file_size} bytes, at most {MEMBER_BYTES} are read"
            )
        sizes[name] = entry.file_size
    if sum(sizes.values()) > TOTAL_BYTES:
        raise BundleError(f"{path}: its members announce {sum(sizes.values())} bytes, at most {TOTAL_BYTES} are read")
    return sizes


def _is_unsafe(entry: zipfile.ZipInfo) -> bool:
    """Whether a name could lead out of a folder, or is not what it seems."""
    name = entry.orig_filename
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    outside = posix.is_absolute() or bool(windows.anchor) or ".." in windows.parts
    return outside or not name.isprintable() or name != entry.filename or not name
