"""The command line: parse, call one function, report. Nothing heavy is imported before the words are understood."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
import traceback
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ptycho_torch import __version__, config
from ptycho_torch.errors import PtychoError, UsageError

INTERRUPTED = 130


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
        (("action", "inspect or verify"), ("path", "wts.h5.zip, or the folder that holds it")),
        ("inspect", "verify"),
    ),
}


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one line that names the way out."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message} (--help lists what can be given)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 usage, 3 data, 4 bundle, 1 unexpected, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except PtychoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        return 1
    except Exception:
        traceback.print_exc()
        return 1


def _run(words: list[str]) -> int:
    if words and words[0] == "inference":
        words = ["infer", *words[1:]]
    if not words or words[0] not in COMMANDS:
        return _overview(words)
    name, command = words[0], COMMANDS[words[0]]
    parser = command_parser(name)
    given, unknown = parser.parse_known_args(words[1:])
    if unknown:
        raise UsageError(_unknown_flag(parser, unknown[0]))
    values = vars(given)
    positional = [values.pop(word) for word, _ in command.words]
    settings = _validated(command.settings, values, parser)
    module, function = command.function.split(":")
    result = getattr(importlib.import_module(module), function)(*positional, settings)
    return result if isinstance(result, int) else 0


def _overview(words: list[str]) -> int:
    parser = Parser(prog="ptycho-torch", description=importlib.import_module("ptycho_torch").__doc__)
    parser.add_argument("--version", action="version", version=f"ptycho-torch {__version__}")
    commands = parser.add_subparsers(metavar="command", dest="command", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.settings.__doc__, add_help=False)
    if words and not words[0].startswith("-"):
        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"ptycho-torch: there is no command {words[0]!r}{hint} (commands: {', '.join(COMMANDS)})")
    parser.parse_args(words or ["--help"])
    return 0


def command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command, its flags derived from the fields of its settings."""
    command = COMMANDS[name]
    parser = Parser(prog=f"ptycho-torch {name}", description=command.settings.__doc__, allow_abbrev=False)
    for position, (word, text) in enumerate(command.words):
        choices: dict[str, Any] = {"choices": command.choices} if command.choices and position == 0 else {}
        parser.add_argument(word, help=text, **choices)
    for field, info in command.settings.model_fields.items():
        _add_flag(parser, field, info)
    return parser


def _add_flag(parser: argparse.ArgumentParser, field: str, info: FieldInfo) -> None:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    listed: Any = extra.get("flags") or [f"--{field}"]
    spellings = _both_spellings([str(flag) for flag in listed])
    kind = _inner_type(info.annotation)
    default = "" if info.is_required() or info.default in (None, False) else f" (default: {info.default})"
    options: dict[str, Any] = {"dest": field, "default": argparse.SUPPRESS, "help": f"{info.description}{default}"}
    if kind is bool:
        parser.add_argument(*spellings, action="store_true", **options)
        off = [f"--no-{flag[2:]}" for flag in spellings if flag.startswith("--")]
        off += [flag.replace("--enable", "--disable") for flag in spellings if flag.startswith("--enable")]
        parser.add_argument(*off, action="store_false", dest=field, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        return
    if get_origin(kind) is Literal:
        options["metavar"] = "{" + ",".join(map(str, get_args(kind))) + "}"
    else:
        options["metavar"] = {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")
    if extra.get("const") is not None:
        options |= {"nargs": "?", "const": extra["const"]}
        options["help"] += f" ({extra['const']} when no number is given)"
    parser.add_argument(*spellings, required=info.is_required(), **options)


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


def _unknown_flag(parser: argparse.ArgumentParser, word: str) -> str:
    known = [flag for action in parser._actions for flag in action.option_strings]
    near = difflib.get_close_matches(word.split("=")[0], known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{parser.prog}: unknown argument {word}{hint} (--help lists what can be given)"


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
