"""Error messages of the command line: what is wrong, and what was probably meant."""

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence

from lightning.pytorch.cli import LightningArgumentParser

from intff_lightning.lightning_compat import option_names
from intff_lightning.recipe import Recorded

_WIDTH = 300


def _subclasses(cls: type) -> Iterator[type]:
    subclass: type
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def known_options(parser: LightningArgumentParser) -> list[str]:
    """Return every option of a parser and its subcommands, and every argument of the package's configurable classes."""
    names = option_names(parser)
    for cls in _subclasses(Recorded):
        names.update(inspect.signature(cls).parameters)
    return sorted(names)


def shorten(message: str, options: Sequence[str] = ()) -> str:
    """Return the part of jsonargparse's nested message that a person needs, with a guess at what was meant."""
    lines = [line.strip(" -") for line in message.splitlines() if line.strip(" -")]
    missing = re.search(r"Expected a dot import path string: (\S+)", message)
    unknown = re.search(
        r"[Oo]ption '([\w.]+)'|[Kk]ey ['\"]([\w.]+)['\"] is not|[Uu]nrecognized arguments?: --([\w.]+)", message
    )
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
    if re.search(r"arguments? (?:is|are) required: (.*)", message):
        return f"{lines[0][:_WIDTH]}\nGive a config file, for example --config digits, or a checkpoint."
    return "\n".join(line[:_WIDTH] for line in lines[:3])


def _guess(name: str, names: Sequence[str]) -> str:
    others = [other for other in names if other != name]  # another class may have an option of this name
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""
