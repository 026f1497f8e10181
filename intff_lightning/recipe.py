"""Recipes: how an object was built, as plain values that a checkpoint may hold under ``weights_only``.

A recipe is ``{"class_path": "package.Class", "init_args": {...}}``, the form of a LightningCLI config file.
"""

import functools
import importlib
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from intff_lightning.errors import CheckpointError
from intff_lightning.lightning_compat import parsed_hyperparameters

T = TypeVar("T", bound="Recorded")


class NoRecipeError(TypeError):
    """An object that has no form in plain values."""


class Recorded:
    """Base of classes that remember the arguments of their constructor."""

    def __new__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        """Note the arguments before any ``__init__`` sees them."""
        self = super().__new__(cls)
        self.__dict__["_arguments"] = (args, kwargs)
        return self

    def init_arguments(self) -> dict[str, Any]:
        """Return the arguments that the constructor was given, by name; defaults are left out."""
        args, kwargs = self.__dict__["_arguments"]
        bound = inspect.signature(type(self)).bind(*args, **kwargs).arguments
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                bound.update(bound.pop(name, {}))
        return dict(bound)


class RecordedModule(Recorded, nn.Module):
    """Base of the parts of a network."""

    def extra_repr(self) -> str:
        plain = (bool, int, float, str, list, tuple)
        return ", ".join(f"{name}={value}" for name, value in self.init_arguments().items() if isinstance(value, plain))


def _path(cls: type) -> str:
    """Return the shortest import path: ``torch.optim.AdamW``, not ``torch.optim.adamw.AdamW``."""
    parts = cls.__module__.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        if getattr(sys.modules[package], cls.__name__, None) is cls:
            return f"{package}.{cls.__name__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def _importable_path(cls: type) -> str:
    if "." in cls.__qualname__:
        raise NoRecipeError(f"{cls.__qualname__} is defined inside another class or function and cannot be imported")
    return _path(cls)


def to_recipe(value: Any) -> Any:
    """Write a value down as plain values.

    Args:
        value: Plain values, containers of them, :class:`Recorded` objects, partials of classes
            (``functools.partial(torch.optim.Adam, lr=1e-3)``), or optimizer classes.

    Raises:
        NoRecipeError: The value is anything else, such as a lambda or a module of your own without a recipe.

    >>> to_recipe({"lr": 0.1, "widths": (3, 4)})
    {'lr': 0.1, 'widths': [3, 4]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [to_recipe(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_recipe(item) for key, item in value.items()}
    if isinstance(value, Recorded):
        return {"class_path": _importable_path(type(value)), "init_args": to_recipe(value.init_arguments())}
    if isinstance(value, type) and issubclass(value, Optimizer | LRScheduler):
        return {"class_path": _importable_path(value), "init_args": {}}
    if isinstance(value, functools.partial):
        # jsonargparse's own partials hold the class as an argument of a helper
        cls = next((part for part in (value.func, *value.args) if isinstance(part, type)), None)
        if cls is not None:
            return {"class_path": _importable_path(cls), "init_args": to_recipe(value.keywords)}
    raise NoRecipeError(f"a checkpoint cannot hold {value!r}")


def from_recipe(value: Any) -> Any:
    """Rebuild what :func:`to_recipe` wrote down; any other value is returned as it is.

    Optimizers and schedulers come back as factories (partials), everything else as objects.

    Raises:
        CheckpointError: The class no longer exists, or is not one that a recipe may build.
    """
    if isinstance(value, list | tuple):
        return [from_recipe(item) for item in value]
    if not (isinstance(value, Mapping) and "class_path" in value):
        return value
    cls = _import(value["class_path"])
    arguments = {key: from_recipe(item) for key, item in (value.get("init_args") or {}).items()}
    if isinstance(cls, type) and issubclass(cls, Optimizer | LRScheduler):
        return functools.partial(cls, **arguments)
    # only parts of a network: a checkpoint must not be able to run any callable of the installation
    if isinstance(cls, type) and issubclass(cls, nn.Module | Recorded):
        return cls(**arguments)
    raise CheckpointError(f"{value['class_path']} is not a part of a network, so a recipe may not build it")


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(f"the class {path} cannot be imported ({error})") from None


def _plain(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return recipes by name, with ``None`` for values that have none, and the names of those values."""
    plain: dict[str, Any] = {}
    lost = []
    for name, value in values.items():
        try:
            plain[name] = to_recipe(value)
        except NoRecipeError:
            plain[name] = None
            lost.append(name)
    return plain, lost


def differences(mine: Any, theirs: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Compare two recipes, or values in them; arguments that were not given have their defaults.

    Yields:
        The dotted name of each argument that differs, and both values.
    """
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        if "class_path" in mine and mine["class_path"] == theirs.get("class_path"):
            mine, theirs = _with_defaults(mine), _with_defaults(theirs)
        for name in sorted(mine.keys() | theirs.keys()):
            yield from differences(mine.get(name), theirs.get(name), f"{key}.{name}" if key else name)
    elif isinstance(mine, list | tuple) and isinstance(theirs, list | tuple) and len(mine) == len(theirs):
        for number, pair in enumerate(zip(mine, theirs, strict=True)):
            yield from differences(*pair, f"{key}[{number}]")
    elif mine != theirs:
        yield key, mine, theirs


def _with_defaults(recipe: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(_import(recipe["class_path"])).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return {"class_path": recipe["class_path"], "init_args": {**defaults, **recipe.get("init_args", {})}}


def record(owner: Any, logger: bool = True, **defaults: Any) -> None:
    """Save the constructor arguments of a module or datamodule as hyperparameters, in plain values only.

    An argument without a recipe (a data set, a module of your own) is saved as ``None``. The command line is the
    exception: it knows the plain form of everything that it built.

    Args:
        owner: A :class:`Recorded` module or datamodule; call this in its constructor.
        logger: Send the hyperparameters to the loggers.
        **defaults: Hyperparameters whose values are settled later.
    """
    arguments, lost = _plain(owner.init_arguments())
    plain = {**defaults, **arguments}
    if lost:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a module is among the arguments: it is not kept
            owner.save_hyperparameters()  # on the command line, Lightning supplies what was parsed
        given = parsed_hyperparameters(owner)
        plain.update({name: given[name] for name in lost if name in given})
        owner.hparams.clear()
    owner.save_hyperparameters(plain, logger=logger)


def accepts(kind: type, name: str) -> bool:
    """Tell whether a constructor takes an argument of this name, by itself or among further ones."""
    parameters = inspect.signature(kind).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def recipe_of(owner: Any) -> dict[str, Any]:
    """Return the recipe of a module or datamodule from its hyperparameters, with ``None`` for those without one."""
    arguments, _ = _plain(owner.hparams)
    return {"class_path": _path(type(owner)), "init_args": arguments}
