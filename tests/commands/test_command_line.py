"""The line "how to reproduce" of a report reproduces it."""

from __future__ import annotations

import html
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import run

from ptycho_torch.cli import COMMANDS, Command
from ptycho_torch.commands import command_line, command_typed


def line_of(report: Path) -> str:
    (line,) = re.findall(r"<pre>(ptycho-torch .*?)</pre>", report.read_text(encoding="utf-8"), re.DOTALL)
    return html.unescape(line)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "reconstruction.npz") as file:
        return {name: file[name] for name in file.files}


def test_the_line_of_a_report_gives_the_same_result(scan_file: Path, tmp_path: Path) -> None:
    scan = Path(shutil.copy(scan_file, tmp_path / "a 'new' $scan.npz"))
    words = ["--model_path", "flat", "--test_data", scan, "--output_dir", tmp_path / "my out", "--refine=2", "--quiet"]
    subprocess.run([sys.executable, "-m", "ptycho_torch.inference", *map(str, words)], check=True)
    line, before = line_of(tmp_path / "my out" / "report.html"), arrays(tmp_path / "my out")
    shutil.rmtree(tmp_path / "my out")
    program, *typed = shlex.split(line)
    assert program == "ptycho-torch" and run(*typed) == 0
    after = arrays(tmp_path / "my out")
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert line_of(tmp_path / "my out" / "report.html") == line


def test_the_words_are_known_while_a_command_runs_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "bundle", Command(COMMANDS["bundle"].settings, f"{__name__}:note"))
    seen.clear()
    assert run("bundle") == 0
    assert seen == ["ptycho-torch bundle"] and command_line() == ""
    with command_typed(["demo"]), command_typed(["infer", "a b"]):
        assert command_line() == "ptycho-torch infer 'a b'"


seen: list[str] = []


def note(_: object) -> None:
    seen.append(command_line())
