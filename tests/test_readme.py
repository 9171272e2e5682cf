"""The README's commands are run as they stand there; only training is made short."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SHORT = "--max_epochs 1 --n_images 8 --batch_size 4 --accelerator cpu"


def blocks(mark: str) -> list[str]:
    return re.findall(rf"<!-- {mark} -->\n```sh\n(.*?)```", README, re.DOTALL)


def words_of(line: str) -> list[str]:
    """A command line of the README as words for `main`."""
    words = shlex.split(line)
    if words[:3] == ["python", "-m", "ptycho_torch.train"]:
        return ["train", *words[3:]]
    if words[:3] == ["python", "-m", "ptycho_torch.inference"]:
        return ["infer", *words[3:]]
    assert words[0] == "ptycho-torch", line
    return words[1:]


def test_every_command_of_the_readme_runs(
    scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scan.npz", "X.npz", "Y.npz", "siemens_star_aps_128.npz"):
        shutil.copy(scan_file, name)
    lines = [line for block in blocks("commands") for line in block.splitlines()]
    assert len(lines) >= 10
    for line in lines:
        if line.startswith("pytest "):
            assert (ROOT / line.split()[1]).is_file()
            continue
        words = words_of(line)
        words += SHORT.split() if words[0] == "train" else []
        words += ["--positions", "30"] if words[0] == "simulate" else []
        assert run(*words) == 0, line
        capsys.readouterr()
    for made in ("results/report.html", "results/reconstruction.npz", "D/wts.h5.zip", "DIR/patches.npz", "lines.npz"):
        assert Path(made).is_file(), made


def test_set_up_is_one_line_each_and_ci_runs_the_second() -> None:
    (demo,), (tests,) = blocks("demo"), blocks("tests")
    for block in (demo, tests):
        assert block.count("\n") == 1 and block.startswith("python3 -m venv .venv && .venv/bin/pip install")
    assert "ptycho-torch demo" in demo and "pytest" in tests
    assert "readme_command tests" in (ROOT / ".ci" / "run").read_text()


def test_links_of_the_readme_and_docs_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
