"""Storage of patterns: an array, or a file that is mapped and read in slices.

The patterns of a scan are indexed like an array `[n, N, N]` and read in parts, so a scan may be larger than memory.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

CHUNK_VALUES = 2**20
"""Pixels per chunk: a pass over a scan takes little memory beyond the scan."""
MAPPED_BYTES = 2**28
"""An array of a file is mapped from this size on; a smaller one is read, so that its file may be overwritten."""
LOCAL_HEADER = struct.Struct("<26xHH")
"""The end of a zip member's local header: lengths of its name and of its extra field."""


def chunks(n_patterns: int, pixels: int) -> Iterator[slice]:
    """Slices over the patterns of `pixels` pixels each, of about `CHUNK_VALUES` pixels."""
    step = max(1, CHUNK_VALUES // max(1, pixels))
    return (slice(start, start + step) for start in range(0, n_patterns, step))


def mapped(path: Path, member: zipfile.ZipInfo) -> np.ndarray | None:
    """The array of an NPZ's member as a read-only memory map; None where it has to be read.

    Only a large member that is stored without compression, in C order, and is no pickle can be mapped. Its checksum is
    verified in passing. Raises zipfile.BadZipFile when that disagrees, and what numpy raises on damaged headers.
    """
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 or member.file_size < MAPPED_BYTES:
        return None
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        begin = member.header_offset + LOCAL_HEADER.size + name + extra
        file.seek(begin)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(np.lib.format.read_magic(file))
        if read_header is None:
            return None
        shape, is_fortran, kind = read_header(file)
        start = file.tell()
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if is_fortran or kind.hasobject or not size or start + size > begin + member.file_size:
            return None
        file.seek(begin)
        checksum, left = 0, member.file_size
        while left > 0 and (part := file.read(min(left, CHUNK_VALUES))):
            checksum, left = zlib.crc32(part, checksum), left - len(part)
    if left or checksum != member.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {member.filename!r}")
    return np.memmap(path, dtype=kind, mode="r", offset=start, shape=shape)
