"""The command line: parse, call one function, report. Nothing heavy is imported before the words are understood."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import re
import shutil
import sys
import textwrap
import traceback
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ptycho_torch import __version__, config
from ptycho_torch.commands import command_typed
from ptycho_torch.commands.streams import lasting_streams
from ptycho_torch.errors import BundleError, DataError, PtychoError, UsageError

INTERRUPTED = 130
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a used up quota, a file beyond the limit of the process."""
GROUPS: dict[config.Group, str] = {
    "input": "input",
    "model": "initial object and model",
    "training": "training",
    "refinement": "refinement",
    "simulation": "simulation",
    "options": "options",
    "computing": "computing",
    "output": "output",
    "older": "older spellings, accepted",
}


@dataclass(frozen=True)
class Command:
    """A command's words, its settings and the function that it calls, named so that it's imported only to be run."""

    settings: type[config.Config]
    function: str  # "module:function", called with the settings (and the positional words)
    words: tuple[tuple[str, str], ...] = ()  # positional arguments: name, help
    choices: tuple[str, ...] = ()  # what the first positional may be


COMMANDS = {
    "train": Command(config.TrainConfig, "ptycho_torch.training.run:train"),
    "pretrain": Command(config.PretrainConfig, "ptycho_torch.commands.pretrain:pretrain"),
    "infer": Command(config.InferenceConfig, "ptycho_torch.commands.infer:infer"),
    "refine": Command(config.RefineConfig, "ptycho_torch.commands.infer:infer"),
    "run": Command(
        config.RunConfig,
        "ptycho_torch.commands.run:run",
        (("test_data", "file or folder of a scan, in any known format"),),
    ),
    "check": Command(
        config.CheckConfig,
        "ptycho_torch.commands.check:run",
        (("test_data", "file or folder of a scan, in any known format"),),
    ),
    "ptychodus": Command(
        config.PtychodusConfig,
        "ptycho_torch.commands.ptychodus:run",
        (("test_data", "folder with diffraction.h5 and product.h5"),),
    ),
    "convert": Command(
        config.ConvertConfig,
        "ptycho_torch.commands.convert:run",
        (
            ("test_data", "file or folder of a scan, in any known format"),
            ("output", "NAME.npz, .cxi or .ptyd, NAME_dp.hdf5 of pty-chi, … (docs/formats.md)"),
        ),
    ),
    "simulate": Command(config.SimulateConfig, "ptycho_torch.commands.simulate:simulate"),
    "benchmark": Command(config.BenchmarkConfig, "ptycho_torch.commands.benchmark:benchmark"),
    "demo": Command(config.DemoConfig, "ptycho_torch.commands.demo:demo"),
    "evaluate": Command(
        config.EvaluateConfig,
        "ptycho_torch.commands.evaluate:run",
        (
            ("reconstruction", "reconstruction.npz, or any NPZ with `object`"),
            ("reference", "the same, or a scan NPZ with `objectGuess`"),
        ),
    ),
    "bundle": Command(
        config.BundleConfig,
        "ptycho_torch.commands.bundle:run",
        (
            ("action", "inspect (print what it holds) or verify (check that it is whole)"),
            ("path", "wts.h5.zip, or the folder that holds it"),
        ),
        ("inspect", "verify"),
    ),
}


METAVARS = {"test_data": "FILE"}
"""How a word is called in help where it is a field of the settings."""


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line that names the way out."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message} (--help lists what can be given)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help in which each flag stands in one spelling; beside one that is on by default stands what turns it off."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=_columns())

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        shown = ", ".join(getattr(action, "shown", action.option_strings))
        if action.nargs == 0:
            return shown
        return f"{shown} [{action.metavar}]" if action.nargs == "?" else f"{shown} {action.metavar}"


def _columns() -> int:
    """Width of help: that of the terminal, within what can be read."""
    return max(60, min(110, shutil.get_terminal_size((110, 24)).columns))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 usage, 3 data, 4 bundle, 5 a bad verdict under --strict,
    1 unexpected, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with lasting_streams() as lost, command_typed(words):
        code = _exit_code(words)
        if lost():
            print(f"error: what the command prints can't be written ({lost()})", file=sys.stderr)
        return code or int(bool(lost()))


def _exit_code(words: list[str]) -> int:
    try:
        return _run(words)
    except PtychoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        foreseen = _foreseen(error)
        if foreseen:
            print(f"error: {foreseen}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1


def _foreseen(error: Exception) -> str:
    """What a machine lacked, in a line; empty for any other error."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"the results can't be written ({error.strerror}); make room, then run the command again"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower()):
        reason = (str(error).splitlines() or ["no more is left"])[0]
        return f"out of memory ({reason}); use fewer patterns, and check that the positions are in object pixels"
    return ""


def _run(words: list[str]) -> int:
    if words and words[0] == "inference":
        words = ["infer", *words[1:]]
    if not words or words[0] not in COMMANDS:
        return _overview(words)
    words = _with_negative_values(words)
    name, command = words[0], COMMANDS[words[0]]
    parser = command_parser(name)
    _refuse_unknown_flags(parser, words[1:])
    values = vars(parser.parse_args(words[1:]))
    _refuse_missing_flags(parser, command.settings, values)
    positional = [values.pop(word) for word, _ in command.words if word not in command.settings.model_fields]
    settings = _validated(command.settings, values, parser)
    _look_for_files(settings)
    _let_threads_sleep()
    module, function = command.function.split(":")
    result = getattr(importlib.import_module(module), function)(*positional, settings)
    return result if isinstance(result, int) else 0


def _with_negative_values(words: list[str]) -> list[str]:
    """`--rotation -34deg` as `--rotation=-34deg`, which argparse would take for another flag."""
    joined = list[str]()
    for word in words:
        if joined and re.match(r"-\.?\d", word) and re.fullmatch(r"--[A-Za-z][\w-]*", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _let_threads_sleep() -> None:
    """Threads of OpenMP that wait give their core away, unless the user has set how they wait.

    By default they spin, which costs CPU time and slows down whatever else runs on a shared machine. OpenMP reads this
    when it is loaded, with torch.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _overview(words: list[str]) -> int:
    """What there is, for `ptycho-torch` without a command; UsageError for a command or flag that there is not."""
    if words == ["--version"]:
        print(f"ptycho-torch {__version__}")
        return 0
    if words and not {"-h", "--help"} & set(words):
        near = difflib.get_close_matches(words[0], [*COMMANDS, "--version", "--help"], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"ptycho-torch: there is no command {words[0]!r}{hint} (commands: {', '.join(COMMANDS)})")
    width = max(map(len, COMMANDS))
    what = str(importlib.import_module("ptycho_torch").__doc__).splitlines()[0]
    print(f"usage: ptycho-torch COMMAND [flags]\n\n{what}\n\ncommands:")
    for name, command in COMMANDS.items():
        text = textwrap.wrap(str(command.settings.__doc__), _columns() - width - 4)
        print(f"  {name:{width}}  " + f"\n{'':{width + 4}}".join(text))
    print(
        "\nptycho-torch COMMAND --help lists the flags of a command and gives an example.\n"
        "New here? `ptycho-torch demo` simulates a scan, reconstructs it and shows the result beside the true object."
    )
    return 0


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command, its flags derived from the fields of its settings: required ones first."""
    command = COMMANDS[name]
    typed = {word for word, _ in command.words}
    fields = {field: info for field, info in command.settings.model_fields.items() if field not in typed}
    needed = {field: info for field, info in fields.items() if info.is_required()}
    parser = Parser(
        prog=f"ptycho-torch {name}",
        description=command.settings.__doc__,
        allow_abbrev=False,
        add_help=False,
        formatter_class=HelpFormatter,
        epilog=f"example:\n  {command.settings.example}\n\nIn names of flags - and _ mean the same.",
    )
    required = parser.add_argument_group("required")
    for position, (word, text) in enumerate(command.words):
        choices: dict[str, Any] = {"choices": command.choices} if command.choices and position == 0 else {}
        required.add_argument(word, help=text, metavar=METAVARS.get(word, word), **choices)
    flags = [_add_flag(required, field, info) for field, info in needed.items()]
    parser.usage = " ".join([parser.prog, *(METAVARS.get(word, word) for word, _ in command.words), *flags, "[flags]"])
    for group, title in GROUPS.items():
        listed = parser.add_argument_group(title)
        for field, info in fields.items():
            if field not in needed and _extra(info)["group"] == group:
                _add_flag(listed, field, info)
    parser.add_argument_group("help").add_argument("-h", "--help", action="help", help="show this help and exit")
    return parser


def _extra(info: FieldInfo) -> dict[str, Any]:
    """The flag of a field, as `config.setting` describes it."""
    assert isinstance(info.json_schema_extra, dict)
    return info.json_schema_extra


def _add_flag(parser: argparse._ActionsContainer, field: str, info: FieldInfo) -> str:
    """The flag of a field, and how it is typed."""
    extra = _extra(info)
    spellings = _both_spellings(extra["flags"] or [f"--{field}"])
    kind = _inner_type(info.annotation)
    options: dict[str, Any] = {"dest": field, "default": argparse.SUPPRESS, "help": info.description}
    if kind is bool:
        return _add_switch(parser, spellings, is_on=bool(info.default), **options)
    if not info.is_required() and info.default is not None:
        options["help"] += f" (default: {info.default})"
    if get_origin(kind) is Literal:
        options["metavar"] = "{" + ",".join(map(str, get_args(kind))) + "}"
    else:
        options["metavar"] = {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")
    if extra["const"] is not None:
        options |= {"nargs": "?", "const": extra["const"]}
        options["help"] += f" ({extra['const']} when no number is given)"
    action = parser.add_argument(*spellings, **options)
    action.shown = _shown(spellings)  # type: ignore[attr-defined]
    return f"{action.shown[0]} {action.metavar}"  # type: ignore[attr-defined]


def _add_switch(parser: argparse._ActionsContainer, spellings: list[str], *, is_on: bool, **options: Any) -> str:
    """A flag without a value and its opposite; help shows the opposite where the flag is on by default."""
    no = [f"--no-{flag[2:]}" for flag in spellings if flag.startswith("--")]
    disable = [flag.replace("--enable", "--disable") for flag in spellings if flag.startswith("--enable")]
    off = _both_spellings(disable + no)
    shown = [spellings[0], off[0]] if is_on else [spellings[0]]
    if is_on:
        options["help"] += " (default: on)"
    action = parser.add_argument(*spellings, action="store_true", **options)
    action.shown = shown  # type: ignore[attr-defined]
    parser.add_argument(*off, action="store_false", **{**options, "help": argparse.SUPPRESS})
    return shown[0]


def _shown(spellings: list[str]) -> list[str]:
    """The first spelling, and the short one where there is one."""
    short = [flag for flag in spellings if not flag.startswith("--")]
    return list(dict.fromkeys([spellings[0], *short]))


def _both_spellings(flags: list[str]) -> list[str]:
    """Every long flag in --snake_case and in --kebab-case, the given one first."""
    spellings = list(flags)
    for flag in flags:
        if flag.startswith("--"):
            spellings += ["--" + flag[2:].replace("_", "-"), "--" + flag[2:].replace("-", "_")]
    return list(dict.fromkeys(spellings))


def _inner_type(annotation: Any) -> Any:
    """The type behind `X | None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation


def _refuse_unknown_flags(parser: argparse.ArgumentParser, words: list[str]) -> None:
    """UsageError for the first unknown flag, before any message on missing ones."""
    known = [flag for action in parser._actions for flag in action.option_strings]
    words = words[: words.index("--")] if "--" in words else words
    if "-h" in words or "--help" in words:
        return
    for word in words:
        flag = word.split("=")[0]
        if flag.startswith("--") and flag not in known:
            near = difflib.get_close_matches(flag, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"{parser.prog}: unknown argument {flag}{hint} (--help lists what can be given)")


def _refuse_missing_flags(
    parser: argparse.ArgumentParser, settings: type[config.Config], values: dict[str, Any]
) -> None:
    shown = {action.dest: action.shown[0] for action in parser._actions if hasattr(action, "shown")}
    missing = [
        shown.get(field, field)
        for field, info in settings.model_fields.items()
        if info.is_required() and field not in values
    ]
    if missing:
        raise UsageError(f"{parser.prog}: it needs {' and '.join(missing)} (--help lists what can be given)")


def _look_for_files(settings: config.Config) -> None:
    """DataError, or BundleError for a bundle, when a file that the command reads is not there."""
    for field, info in type(settings).model_fields.items():
        reads, path = _extra(info)["reads"], getattr(settings, field)
        if reads is None or path is None or path.exists() or (reads == "model" and str(path) in config.WITHOUT_A_FILE):
            continue
        if reads == "model" and path.suffix != ".npz":
            raise BundleError(f"{path}: no such file; give a wts.h5.zip or the folder that holds it")
        raise DataError(f"{path}: no such {'folder' if reads == 'folder' else 'file'}")


def _validated(settings: type[config.Config], values: dict[str, Any], parser: argparse.ArgumentParser) -> config.Config:
    try:
        return settings(**values)
    except ValidationError as error:
        flags = {action.dest: action.option_strings[0] for action in parser._actions if action.option_strings}
        complaints = [_complaint(problem, flags) for problem in error.errors()]
        raise UsageError(f"{parser.prog}: {'; '.join(complaints)}") from None


def _complaint(problem: Any, flags: dict[str, str]) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if not problem["loc"]:
        return message
    field = str(problem["loc"][0])
    return f"{flags.get(field, field)} {problem['input']}: {message}"


if __name__ == "__main__":
    sys.exit(main())
