"""Help of the commands, and what is said of flags and files before anything heavy is loaded."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run, train_words

from ptycho_torch.cli import COMMANDS, GROUPS, command_parser
from ptycho_torch.config import Config


def titles(text: str) -> list[str]:
    return re.findall(r"^(\S.*):$", text, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_required_flags_first_then_groups_and_ends_with_an_example(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(name, "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    fields = COMMANDS[name].settings.model_fields
    needed = any(info.is_required() for info in fields.values()) or bool(COMMANDS[name].words)
    order = ["required"] * needed + [title for title in GROUPS.values() if title in titles(text)] + ["help", "example"]
    assert titles(text) == order
    assert text.index("example:") < text.index(COMMANDS[name].settings.example)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_one_spelling_of_each_flag(name: str) -> None:
    text = command_parser(name).format_help()
    listed = re.findall(r"^  (-.*?)(?:   |$)", text, re.MULTILINE)
    shown = [
        flag for line in listed for flag in re.findall(r"--[\w-]+", line) if not re.match(r"--(no|disable)-", flag)
    ]
    as_one = [flag.replace("_", "-") for flag in shown]
    typed = {word for word, _ in COMMANDS[name].words}
    assert len(as_one) == len(set(as_one)) == len(set(COMMANDS[name].settings.model_fields) - typed) + 1


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_a_command_can_be_typed(name: str) -> None:
    command = COMMANDS[name]
    first, second, *words = shlex.split(command.settings.example)
    assert (first, second) == ("ptycho-torch", name)
    values = vars(command_parser(name).parse_args(words))
    settings = command.settings(**{key: value for key, value in values.items() if key in command.settings.model_fields})
    assert isinstance(settings, Config)


def test_every_switch_can_be_turned_off_in_both_spellings_and_help_shows_it_where_it_is_on() -> None:
    for name, command in COMMANDS.items():
        parser = command_parser(name)
        text = parser.format_help()
        for field, info in command.settings.model_fields.items():
            if info.annotation is not bool:
                continue
            required = [word for part in _required(name) for word in part]
            for flag in (f"--no-{field.replace('_', '-')}", f"--no-{field}"):
                known = {option for action in parser._actions for option in action.option_strings}
                assert flag in known
                assert getattr(parser.parse_args([*required, flag]), field) is False
            assert bool(re.search(rf"--(no|disable)-{field.split('_')[-1]}", text)) is info.default, field


def _required(name: str) -> list[list[str]]:
    fields = COMMANDS[name].settings.model_fields
    words = [["inspect" if word == "action" else "x"] for word, _ in COMMANDS[name].words]
    actions = {action.dest: action for action in command_parser(name)._actions}
    typed = {word for word, _ in COMMANDS[name].words}
    needed = [field for field, info in fields.items() if info.is_required() and field not in typed]
    return words + [[actions[field].option_strings[0], "x"] for field in needed]


@pytest.mark.parametrize(
    "words, says",
    [
        (["infer", "--reifne"], "unknown argument --reifne; did you mean --refine?"),
        (["train", "--learnin-rate=1"], "unknown argument --learnin-rate; did you mean --learning-rate?"),
        (["evaluate", "--rmap"], "unknown argument --rmap; did you mean --ramp?"),
        (["--versoin"], "did you mean --version?"),
    ],
)
def test_a_misspelt_flag_is_named_before_what_is_missing(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words) == 2
    text = capsys.readouterr().err
    assert says in text and text.count("\n") == 1


def test_missing_flags_are_named_once_each_in_the_spelling_that_help_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("infer", "--output-dir", "o") == 2
    assert "ptycho-torch infer: it needs --model_path and --test_data" in capsys.readouterr().err


def test_the_overview_names_every_command_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, command in COMMANDS.items():
        assert f"{name} {command.settings.__doc__}" in text


def test_the_profile_ci_is_refused_with_the_reason(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*train_words(scan_file, tmp_path / "m"), "--profile", "ci") == 2
    sentence = (
        "in this ecosystem `ci` names a normalisation profile; use `--profile smoke` for a short run that exercises "
        "all parts"
    )
    assert sentence in capsys.readouterr().err


WITHOUT_TORCH = """
import os, sys
from ptycho_torch.cli import main
code = main(sys.argv[1:])
assert not {'torch', 'numpy'} & set(sys.modules)
sys.exit(code)
"""


@pytest.mark.parametrize(
    "words, code",
    [
        (["train", "--train_data_file", "none.npz", "--output_dir", "o"], 3),
        (["infer", "--model_path", "pretrained", "--test_data", "none.npz", "--output_dir", "o"], 3),
        (["refine", "--test_data", "none.npz", "--output_dir", "o"], 3),
        (["refine", "--start", "none.npz", "--test_data", "scan.npz", "--output_dir", "o"], 3),
        (["infer", "--model_path", "no-model", "--test_data", "scan.npz", "--output_dir", "o"], 4),
        (["benchmark", "--data", "no-folder", "--output_dir", "o"], 3),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_a_file_that_is_not_there_is_noticed_before_anything_heavy_is_loaded(
    words: list[str], code: int, tmp_path: Path
) -> None:
    (tmp_path / "scan.npz").touch()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == code, done.stderr
    assert re.fullmatch(r"error: (none\.npz|no-model|no-folder): no such (file|folder).*\n", done.stderr)
    assert not (tmp_path / "o").exists()
