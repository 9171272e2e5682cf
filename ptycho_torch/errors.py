"""Errors, by their cause, and their exit codes."""


class PtychoError(Exception):
    """A failure that one sentence explains: what was found, what was needed, the way out."""

    exit_code = 1


class UsageError(PtychoError):
    """A flag or a configuration value that can't be honoured."""

    exit_code = 2


class DataError(PtychoError):
    """A scan or product file that can't be used."""

    exit_code = 3


class BundleError(PtychoError):
    """A model bundle that can't be trusted or understood."""

    exit_code = 4


class VerdictError(PtychoError):
    """A result that does not explain its patterns, where `--strict` asks for one that does; its files are written."""

    exit_code = 5


class Interrupted(PtychoError):
    """The user, or the scheduler, asked to stop; what was finished is kept."""

    exit_code = 130


def one_line(error: BaseException) -> str:
    """The message of an exception, short and printable."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:120]
