"""Errors for the person at the keyboard: one to four lines that say what is wrong and what to do."""

from typing import Any, get_args


class IntFFError(Exception):
    """Base of the package's errors."""


class ConfigurationError(IntFFError, ValueError):
    """Arguments that cannot work, alone or together."""


class DataError(IntFFError, ValueError):
    """Data that is missing, damaged or out of range."""


class CheckpointError(IntFFError, RuntimeError):
    """A checkpoint that does not fit the network."""


class StorageError(IntFFError, OSError):
    """A file that cannot be written."""


class PipelineError(IntFFError, RuntimeError):
    """A process of a pipeline over units failed, hangs or was lost."""


class DivergenceError(IntFFError, ArithmeticError):
    """A loss, or the goodness of a unit, is not finite."""


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Refuse a value that is none of the ``choices``, a ``Literal``: Python itself does not check them."""
    if value not in get_args(choices):
        raise ConfigurationError(f"{name}={value!r}: choose from {', '.join(map(repr, get_args(choices)))}.")


def explain(error: BaseException, width: int = 300) -> str:
    """Return the message of the package's own error behind an exception, else the first two lines of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, IntFFError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    lines = [line for line in str(error).splitlines() if line.strip()][:2] or [type(error).__name__]
    return "\n".join([*(line[:width] for line in lines), "(INTFF_TRACEBACK=1 shows where.)"])
