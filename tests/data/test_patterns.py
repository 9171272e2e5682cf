"""A large scan file stays on the disk and is read a slice at a time."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptycho_torch.data import patterns
from ptycho_torch.data.formats import read_scan
from ptycho_torch.errors import DataError


def test_a_large_uncompressed_scan_is_mapped_and_is_the_same_scan(
    scan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = read_scan(scan_file)
    assert not isinstance(read.patterns, np.memmap)
    monkeypatch.setattr(patterns, "MAPPED_BYTES", 0)
    mapped = read_scan(scan_file)
    assert isinstance(mapped.patterns.base, np.memmap) or isinstance(mapped.patterns, np.memmap)
    assert np.array_equal(mapped.patterns, read.patterns) and mapped.patterns.dtype == read.patterns.dtype
    assert np.array_equal(mapped.counts(np.array([3, 1])), read.counts(np.array([3, 1])))
    assert replace(mapped, patterns=read.patterns).facts() == read.facts()


def test_a_compressed_scan_is_read(scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "MAPPED_BYTES", 0)
    with np.load(scan_file) as file:
        np.savez_compressed(tmp_path / "small.npz", **{key: file[key] for key in file.files})
    found = read_scan(tmp_path / "small.npz").patterns
    assert not isinstance(found, np.memmap) and not isinstance(found.base, np.memmap)


def test_a_changed_value_in_a_mapped_file_is_found(
    scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "MAPPED_BYTES", 0)
    content = bytearray(scan_file.read_bytes())
    with zipfile.ZipFile(scan_file) as archive:
        member = archive.getinfo("diff3d.npy")
    content[member.header_offset + member.file_size // 2] ^= 1
    (tmp_path / "altered.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"diff3d is cut short or damaged .*CRC"):
        read_scan(tmp_path / "altered.npz")
