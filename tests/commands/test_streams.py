"""Output that is cut off, or goes where its characters do not exist, stops no command; threads that wait sleep."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import infer_words

from ptycho_torch import devices
from ptycho_torch.cli import main

COMMAND = [sys.executable, "-m", "ptycho_torch"]


def test_characters_that_a_terminal_lacks_are_escaped() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*COMMAND, "train", "--help"], capture_output=True, env=environment, check=False)
    assert done.returncode == 0 and not done.stderr
    assert b"gridsize\\xb2" in done.stdout


def test_a_closed_pipe_ends_quietly_with_the_results_written(scan_file: Path, tmp_path: Path) -> None:
    words = ["refine", "--start", "flat", "--test_data", scan_file, "--output_dir", tmp_path / "out", "--sweeps", "20"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([*COMMAND, *map(str, words)], stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert done.returncode == 0 and done.stderr == b""
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_log_on_a_full_disk_stops_nothing_and_is_told(tmp_path: Path) -> None:
    words = ["simulate", "--output", str(tmp_path / "scan.npz"), "--positions", "9", "-N", "16"]
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and (tmp_path / "scan.npz").is_file()
    assert done.stderr == "error: what the command prints can't be written (No space left on device)\n"


def test_lines_reach_a_file_as_they_are_written(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib\n"
        "from ptycho_torch.commands.streams import lasting_streams\n"
        "with lasting_streams():\n"
        "    print('first')\n"
        "    assert pathlib.Path(sys.argv[1]).read_text() == 'first\\n'\n"
        "print('second')\n"
    )
    path = tmp_path / "log"
    with path.open("w") as log:
        subprocess.run([sys.executable, "-c", program, path], stdout=log, check=True)
    assert path.read_text() == "first\nsecond\n"


def _wait_policy(**environment: str) -> str:
    program = (
        "import os, ptycho_torch\n"
        "before = os.environ.get('OMP_WAIT_POLICY')\n"
        "from ptycho_torch.cli import main\n"
        "assert main(['evaluate', 'a.npz', 'b.npz']) == 3\n"
        "print(before, os.environ['OMP_WAIT_POLICY'])\n"
    )
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_waiting_threads_sleep_in_a_command_unless_the_user_has_set_how_they_wait() -> None:
    assert _wait_policy() == "None PASSIVE"
    assert _wait_policy(OMP_WAIT_POLICY="ACTIVE") == "ACTIVE ACTIVE"


@pytest.mark.parametrize(
    "asked, threads",
    [("2,1", 2), ("3", 3), (" 2 ", 2), ("99", 8), ("", 8), (None, 8), ("many", 8), ("-3", 8), ("0", 8), ("1.5", 8)],
)
def test_the_first_number_of_omp_num_threads_counts_and_nonsense_is_ignored(
    asked: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    if asked is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    devices.use_available_threads()
    assert chosen == [threads]


def test_a_file_that_has_no_room_is_told_in_a_line(scan_file: Path, tmp_path: Path) -> None:
    words = [str(word) for word in infer_words(Path("flat"), scan_file, tmp_path)]
    limited = f"""if True:
        import resource, sys
        from ptycho_torch.cli import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        sys.exit(main({words}))
    """
    done = subprocess.run([sys.executable, "-B", "-c", limited], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    assert done.stderr.startswith("error: the results can't be written (File too large)"), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("lack", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_lack_of_memory_is_told_in_a_line(
    lack: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise lack

    monkeypatch.setattr("ptycho_torch.commands.simulate.simulate", fails)
    assert main(["simulate", "--output", str(tmp_path / "scan.npz")]) == 1
    complaint = capsys.readouterr().err
    assert complaint.startswith("error: out of memory (") and complaint.count("\n") == 1
