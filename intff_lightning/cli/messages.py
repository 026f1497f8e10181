"""Error messages of the command line: what is wrong, and what was probably meant."""

import difflib
import inspect
import re
from collections.abc import Iterator, Sequence

import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from intff_lightning.cli.overview import COMMANDS
from intff_lightning.errors import ConfigurationError
from intff_lightning.lightning_compat import option_names
from intff_lightning.recipe import Recorded

_WIDTH = 300
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "NoneType": "null"}


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
    lines = [line.strip().removeprefix("- ")[:_WIDTH] for line in message.splitlines() if line.strip(" -")]
    return (
        _wrong_value(message)
        or _unknown_class(message)
        or _unknown_option(message, options)
        or _unknown_command(message)
        or _missing(message)
        or "\n".join(lines[:3])
    )


def _wrong_value(message: str) -> str:
    """Say what a value should be in plain words, and not by a type of Python."""
    key = re.match(r'Parser key "([\w.]+)":', message)
    value = re.search(r"^\s*(?:Given value|.*Got value): (.*)$", message, re.MULTILINE)
    kinds = [name for name in re.findall(r"Expected a <class '(\w+)'>", message) if name in _KINDS]
    if not (key and value and {"int", "float", "bool"} & set(kinds)):
        return ""
    return f"{key[1]}: {value[1][:_WIDTH]!r} is not {' or '.join(_KINDS[kind] for kind in dict.fromkeys(kinds))}."


def _unknown_class(message: str) -> str:
    missing = re.search(r"Expected a dot import path string: (\S+)", message)
    if not missing:
        return ""
    where = re.search(r'[Kk]ey "([\w.]+)"', message)
    torchs = [name for part in (torch.optim, torch.optim.lr_scheduler) for name in vars(part) if name[0].isupper()]
    guess = _guess(missing[1], [*(cls.__name__ for cls in _subclasses(Recorded)), *torchs])
    return f"{where[1] + ': ' if where else ''}there is no class {missing[1]}.{guess}"


def _unknown_option(message: str, options: Sequence[str]) -> str:
    unknown = re.search(
        r"[Oo]ption '([\w.]+)'|[Kk]ey ['\"]([\w.]+)['\"] is not|[Uu]nrecognized arguments?: --([\w.]+)", message
    )
    if not unknown:
        return ""
    name = next(group for group in unknown.groups() if group)
    short = {part for option in options for part in option.split(".")}
    guess = _guess(name, [*options, *short])
    wrong = [part for part in name.split(".") if part not in short]
    return f"there is no option {name}." + (guess or (_guess(wrong[0], sorted(short)) if wrong else ""))


def _unknown_command(message: str) -> str:
    given = re.search(r"argument subcommand: invalid choice: '(.*?)'", message)
    if not given and 'expected "subcommand"' not in message:
        return ""
    *most, last = COMMANDS
    what = f"there is no command {given[1]}.{_guess(given[1], list(COMMANDS))}" if given else "a command is missing."
    return f"{what}\nThe commands are {', '.join(most)} and {last}: see intff --help."


def _missing(message: str) -> str:
    found = re.search(r"the following arguments? (?:is|are) required: (.*)", message)
    if not found:
        return ""
    names = found[1].split(", ")
    parts = [f"{cls.__name__} has no {name}" for name in names for cls in _subclasses(Recorded) if _needs(cls, name)]
    if parts:
        return f"{' or '.join(parts)[:_WIDTH]}: give it in init_args."
    if names[0].startswith(("test.", "validate.", "predict.")):
        return f"{found[0][:_WIDTH]}\nGive a checkpoint: --ckpt_path FILE, last, best or pretrained:NAME."
    return f"{found[0][:_WIDTH]}\nGive a config file, for example --config digits, or a checkpoint."


def _needs(cls: type, name: str) -> bool:
    """Tell whether a class has an argument without a default."""
    parameter = inspect.signature(cls).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty


def _guess(name: str, names: Sequence[str]) -> str:
    others = [other for other in names if other != name]  # another class may have an option of this name
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def check_yaml(text: str, name: str) -> None:
    """Refuse the text of a config file that is empty or is not YAML; the message gives the file's name."""
    try:
        empty = yaml.compose(text, yaml.SafeLoader) is None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f", line {place.line + 1}, column {place.column + 1}" if place else ""
        raise ConfigurationError(f"--config: {name}{where}: {getattr(error, 'problem', None) or error}.") from None
    if empty:
        raise ConfigurationError(f"--config: {name} is empty.")
