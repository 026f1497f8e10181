"""Recipes: how an object was built, as plain values that a checkpoint may hold under ``weights_only``.

A recipe is ``{"class_path": "package.Class", "init_args": {...}}``, the same form as in a LightningCLI config file.
"""

import functools
import importlib
import inspect
import warnings
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from intff_lightning.errors import CheckpointError

__all__ = ["NoRecipeError", "Recorded", "build", "recipe", "recipe_of", "record"]

T = TypeVar("T", bound="Recorded")


class NoRecipeError(TypeError):
    """An object that cannot be written down as plain values."""


class Recorded:
    """Base of classes that remember their constructor's arguments."""

    def __new__(cls: type[T], *args: Any, **kwargs: Any) -> T:
        """Note the arguments before ``__init__`` sees them, subclasses' included."""
        self = super().__new__(cls)
        self.__dict__["_arguments"] = (args, kwargs)
        return self

    def init_arguments(self) -> dict[str, Any]:
        """The constructor's arguments by name, without those left at their defaults."""
        args, kwargs = self.__dict__["_arguments"]
        bound = inspect.signature(type(self)).bind(*args, **kwargs).arguments
        for name, parameter in inspect.signature(type(self)).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                bound.update(bound.pop(name, {}))
        return dict(bound)


def _path(cls: type) -> str:
    if "." in cls.__qualname__:
        raise NoRecipeError(f"{cls.__qualname__} is defined inside another class or function and cannot be imported")
    return f"{cls.__module__}.{cls.__qualname__}"


def recipe(value: Any) -> Any:
    """Write ``value`` down as plain values.

    Args:
        value: plain values, containers of them, :class:`Recorded` objects, classes' partials
            (``functools.partial(torch.optim.Adam, lr=1e-3)``) or optimizer classes.

    Raises:
        NoRecipeError: for anything else (a lambda, a module of the user's own without a recipe).

    >>> recipe({"lr": 0.1, "widths": (3, 4)})
    {'lr': 0.1, 'widths': [3, 4]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [recipe(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): recipe(item) for key, item in value.items()}
    if isinstance(value, Recorded):
        return {"class_path": _path(type(value)), "init_args": recipe(value.init_arguments())}
    if isinstance(value, type) and issubclass(value, Optimizer | LRScheduler):
        return {"class_path": _path(value), "init_args": {}}
    if isinstance(value, functools.partial):
        # jsonargparse's own partials hold the class as an argument of a helper
        cls = next((part for part in (value.func, *value.args) if isinstance(part, type)), None)
        if cls is not None:
            return {"class_path": _path(cls), "init_args": recipe(value.keywords)}
    raise NoRecipeError(f"a checkpoint cannot hold {value!r}")


def build(value: Any) -> Any:
    """Undo :func:`recipe`; whatever is not a recipe is returned as it is.

    Optimizers and schedulers come back as factories (partials), everything else as objects.

    Raises:
        CheckpointError: the recipe's class is gone, or is not one that a recipe may build.
    """
    if isinstance(value, list | tuple):
        return [build(item) for item in value]
    if not (isinstance(value, Mapping) and "class_path" in value):
        return value
    module, _, name = value["class_path"].rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise CheckpointError(f"the class {value['class_path']} cannot be imported ({error})") from None
    arguments = {key: build(item) for key, item in (value.get("init_args") or {}).items()}
    if isinstance(cls, type) and issubclass(cls, Optimizer | LRScheduler):
        return functools.partial(cls, **arguments)
    # only network parts: a checkpoint must not be able to run any callable of the installation
    if isinstance(cls, type) and issubclass(cls, nn.Module | Recorded):
        return cls(**arguments)
    raise CheckpointError(f"{value['class_path']} is not a part of a network, so a recipe may not build it")


def _plain(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Recipes by name, ``None`` for what has none, and the names of those."""
    plain: dict[str, Any] = {}
    lost = []
    for name, value in values.items():
        try:
            plain[name] = recipe(value)
        except NoRecipeError:
            plain[name] = None
            lost.append(name)
    return plain, lost


def record(owner: Any, logger: bool = True, **defaults: Any) -> None:
    """Save a module's or datamodule's constructor arguments as hyperparameters, in plain values only.

    What cannot be written down (a dataset, a module of the user's own) is saved as ``None``, except on the command
    line, which knows the plain form of everything that it built.

    Args:
        owner: :class:`Recorded`, and one of Lightning's modules or datamodules; called in its constructor.
        logger: send the hyperparameters to the loggers.
        **defaults: hyperparameters that are settled later.
    """
    arguments, lost = _plain(owner.init_arguments())
    plain = {**defaults, **arguments}
    if lost:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a module is among the arguments: it is not kept
            owner.save_hyperparameters()  # on the command line Lightning gives what was parsed, here; else nothing
        given = dict(owner.hparams) if "_instantiator" in owner.hparams else {}
        plain.update({name: given[name] for name in lost if name in given})
        owner.hparams.clear()
    owner.save_hyperparameters(plain, logger=logger)


def recipe_of(owner: Any) -> dict[str, Any]:
    """Recipe of a module or datamodule from its hyperparameters; what has no recipe is ``None`` in it."""
    arguments, _ = _plain(owner.hparams)
    return {"class_path": f"{type(owner).__module__}.{type(owner).__qualname__}", "init_args": arguments}
