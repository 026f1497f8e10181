"""Error messages for people: what is wrong, and what was meant."""

import difflib
import inspect
import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from intff_lightning.errors import IntFFError
from intff_lightning.recipe import Recorded

__all__ = ["explain", "known_options", "quiet", "shorten"]

_WIDTH = 300


def _subclasses(cls: type) -> Iterator[type]:
    subclass: type
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def known_options(parser: Any) -> list[str]:
    """Every option of a parser and its subcommands, and every argument of the package's configurable classes."""
    names = {option.lstrip("-") for action in parser._actions for option in action.option_strings}
    if parser._subparsers:
        for subparser in parser._subparsers._group_actions[0].choices.values():
            names.update(known_options(subparser))
    for cls in _subclasses(Recorded):
        names.update(inspect.signature(cls).parameters)
    return sorted(names)


def shorten(message: str, options: Sequence[str] = ()) -> str:
    """The part of the parser's message that a person needs, with a guess at what was meant.

    Args:
        message: of jsonargparse; nested, with a line for every alternative of every type.
        options: names among which to look for the one that was meant.
    """
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    missing = re.search(r"Expected a dot import path string: (\S+)", message)
    unknown = re.search(
        r"[Oo]ption '([\w.]+)'|[Kk]ey ['\"]([\w.]+)['\"] is not|[Uu]nrecognized arguments?: --([\w.]+)", message
    )
    required = re.search(r"arguments? (?:is|are) required: (.*)", message)
    if missing:
        where = re.search(r'[Kk]ey "([\w.]+)"', message)
        text = f"{where.group(1) + ': ' if where else ''}there is no class {missing.group(1)}."
        return text + _guess(missing.group(1), [cls.__name__ for cls in _subclasses(Recorded)])
    if unknown:
        name = next(group for group in unknown.groups() if group)
        short = {part for option in options for part in option.split(".")}
        guess = _guess(name, [*options, *short])
        wrong = [part for part in name.split(".") if part not in short]
        return f"there is no option {name}." + (guess or (_guess(wrong[0], sorted(short)) if wrong else ""))
    if required:
        return f"{lines[0][:_WIDTH]}\nGive a config file, --config configs/digits.yaml for example, or a checkpoint."
    return "\n".join(line[:_WIDTH] for line in lines[:3])


def _guess(name: str, names: Sequence[str]) -> str:
    others = [other for other in names if other != name]  # another class may have an option of this name
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def explain(error: BaseException) -> str:
    """The message of an exception, or of the package's own error behind it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, IntFFError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    lines = [line for line in str(error).splitlines() if line.strip()][:2] or [type(error).__name__]
    return "\n".join([*(line[:_WIDTH] for line in lines), "(INTFF_TRACEBACK=1 shows where.)"])


def quiet() -> None:
    """Silence what the user cannot act on; warnings that can be acted on stay."""
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",  # data in memory needs none
        ".*isinstance\\(treespec, LeafSpec\\).*",  # torch about Lightning
        ".*could not find the monitored key.*",  # without validation data the last weights are kept
        ".*callbacks used to create the checkpoint need to be provided.*",  # evaluation needs none of them
        ".*smaller than the logging interval.*",
        ".*exists and is not empty.*",  # two loggers share their folder on purpose, and a resumed run keeps its own
        "The dirpath has changed.*",  # a run from another checkpoint than last.ckpt has a folder and a best of its own
        ".*WeightAveraging callback with a model that overrides.*",  # nothing is sharded here
    ):
        warnings.filterwarnings("ignore", message=message)
    if not torch.cuda.is_available():  # Lightning has every optimizer step ask the driver's library again
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
