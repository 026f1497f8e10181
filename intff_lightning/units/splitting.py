"""split: cut an existing network into the bodies of hidden units.

torch.fx traces the forward pass of the network, so that code between its modules (a flatten, an addition) is kept. Only
the modules around a cut are traced into; every other module keeps its own code, hooks and mode.
"""

import difflib
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Any

import torch
from torch import fx, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.lightning_compat import children_by_name


def split(model: nn.Module, at: Sequence[str | int], until: str | int | None = None) -> list[nn.Module]:
    """Cut a network into pieces that :class:`~intff_lightning.module.IntFFModule` takes as its units.

    The pieces share their weights with ``model``: pretrained weights stay, and training changes those of ``model``.

    Args:
        model: Takes one tensor; further arguments of its ``forward`` keep their defaults.
        at: Where each new piece begins, in order of execution: names of submodules as in ``model.named_modules()``
            (``"layer1"``, ``"features.3"``), or numbers if ``model`` is a Sequential.
        until: Drop this submodule and all that follow: usually the classifier, which goodness replaces.

    Returns:
        ``len(at) + 1`` modules ``(B, *) -> (B, *)``, or one fewer if the first piece begins at ``at[0]``. Called one
        after the other, they compute what the model computes (before ``until``).

    Raises:
        ConfigurationError: A name is unknown, the cuts are out of order, more than one tensor crosses a cut, a piece
            has nothing to train, or the forward pass cannot be traced.

    >>> layers = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    >>> [len(piece) for piece in split(layers, at=[2], until=4)]
    [2, 2]
    """
    cuts = [*([at] if isinstance(at, str | int) else at), *([] if until is None else [until])]
    names = [_name(model, cut) for cut in cuts]
    plain = type(model).forward is nn.Sequential.forward and not any("." in name for name in names)
    pieces = (_slices if plain else _traced)(model, names, until is not None)
    owners: dict[int, int] = {}
    for k, piece in enumerate(pieces):
        if next(piece.parameters(), None) is None:
            raise ConfigurationError(f"piece {k} has no parameters to train: leave out the cut before or after it.")
        for name, parameter in piece.named_parameters():
            if owners.setdefault(id(parameter), k) != k:
                raise ConfigurationError(
                    f"pieces {owners[id(parameter)]} and {k} share {name}, and each trains its own: cut elsewhere."
                )
    return pieces


def _name(model: nn.Module, cut: str | int) -> str:
    """Return the name of the submodule at a cut."""
    if isinstance(cut, int):
        if not isinstance(model, nn.Sequential) or not -len(model) <= cut < len(model):
            what = f"has {len(model)} modules" if isinstance(model, nn.Sequential) else "is no Sequential: give names"
            raise ConfigurationError(f"there is no module {cut} to cut at: {type(model).__name__} {what}.")
        return list(children_by_name(model))[cut]
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if cut not in names:
        near = difflib.get_close_matches(cut, names, n=1)
        guess = f"Did you mean {near[0]}?" if near else f"It has {', '.join(list(children_by_name(model))[:20])}."
        raise ConfigurationError(f"{type(model).__name__} has no submodule {cut!r} to cut at. {guess}")
    return cut


def _starts(places: Sequence[int], names: Sequence[str], ended: bool) -> list[int]:
    """Return where the pieces begin, starting with 0, and where the last one ends if ``ended``."""
    for (before, first), (after, second) in pairwise(zip(places, names, strict=True)):
        if before >= after:
            raise ConfigurationError(
                f"cuts must be in order of execution: {second!r} does not come after {first!r} in the forward pass."
            )
    if ended and places[-1] == 0:
        raise ConfigurationError(f"until={names[-1]!r} leaves nothing: it runs first.")
    return [*([] if places and places[0] == 0 else [0]), *places]


def _slices(model: nn.Module, names: list[str], ended: bool) -> list[nn.Module]:
    children = list(children_by_name(model).items())
    order = [name for name, _ in children]
    starts = _starts([order.index(name) for name in names], names, ended)
    ends = [*starts[1:], *([] if ended else [len(children)])]
    return [nn.Sequential(OrderedDict(children[a:b])) for a, b in zip(starts, ends, strict=False)]


# -------------------------------------------------------------------- by tracing


_MODE = "training_mode"


class _Mode(nn.Module):
    """Returns ``training`` when it is called; a traced graph would hold a constant."""

    def forward(self) -> bool:
        return self.training


class _Tracer(fx.Tracer):
    """Traces into the modules that contain a cut, and into no others."""

    def __init__(self, opened: set[str]) -> None:
        super().__init__()
        self.opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        # further arguments of forward keep their defaults; fx would make inputs of them
        return root_fn, [self.root, self.create_proxy("placeholder", "x", (), {})]


def _trace(model: nn.Module, opened: set[str], training: bool) -> tuple[list[fx.Node], dict[str, Any]]:
    """Return the nodes of the forward pass in order, and the constant tensors among them by name."""
    attributes = set(vars(model))
    modes = {module: module.training for module in map(model.get_submodule, opened)}
    try:
        for module in modes:
            module.training = training
        nodes = list(_Tracer(opened).trace(model).nodes)
    except Exception as error:  # the user's code is given a stand-in for a tensor
        reason = " ".join(str(error).split())[:120]
        raise ConfigurationError(
            f"{type(model).__name__} cannot be traced by torch.fx, which split needs: its forward must take one tensor "
            f"and not depend on values.\nCut at modules further out, or write the units by hand. ({reason})"
        ) from None
    finally:
        for module, mode in modes.items():
            module.training = mode
        constants = {name: vars(model).pop(name) for name in set(vars(model)) - attributes}  # where fx leaves them
    return nodes, constants


def _follow_mode(nodes: list[fx.Node], constants: dict[str, Any], evaluated: Any) -> None:
    """Let nodes traced in training mode read the mode, if ``self.training`` was an argument (``F.dropout``).

    Raises:
        ConfigurationError: Evaluation differs by more than that.
    """
    counterparts, theirs = evaluated
    for node, other in zip_longest(nodes, counterparts[: len(nodes)]):
        flags = {key: True for key, value in node.kwargs.items() if value and other and other.kwargs.get(key) is False}
        if not other or (
            [node.op, node.target, str(node.args), str(node.kwargs)]
            != [other.op, other.target, str(other.args), str({**other.kwargs, **flags})]
            or (node.target in constants and not torch.equal(constants[node.target], theirs[other.target]))
        ):
            raise ConfigurationError(
                f"from {node} on, the forward pass in training differs from that of evaluation, or draws at random:\n"
                "put this into a module of its own (such as nn.Dropout), or cut at modules further out."
            )
        for flag in flags:
            with node.graph.inserting_before(node):
                node.update_kwarg(flag, node.graph.call_module(_MODE))


def _part(model: nn.Module, target: str, constants: dict[str, Any]) -> Any:
    """Return what a node names: a submodule, a parameter or a constant."""
    if target == _MODE:
        return _Mode().train(model.training)
    owner, _, name = target.rpartition(".")
    return constants[target] if target in constants else getattr(model.get_submodule(owner), name)


def _within(node: fx.Node, name: str) -> bool:
    return any(path == name for path, _ in node.meta.get("nn_module_stack", {}).values())


def _traced(model: nn.Module, names: list[str], ended: bool) -> list[nn.Module]:
    opened = {"", *(name[:k] for name in names for k, letter in enumerate(name) if letter == ".")}
    nodes, constants = _trace(model, opened, training=True)
    steps = [node for node in nodes if node.op not in ("placeholder", "get_attr", "output")]
    places = []
    for name in names:
        if not any(_within(step, name) for step in steps):
            raise ConfigurationError(f"{type(model).__name__}'s forward does not call {name}: cut where it calls one.")
        places.append(next(k for k, step in enumerate(steps) if _within(step, name)))
    starts = _starts(places, names, ended)
    ends = [*starts[1:], *([] if ended else [len(steps)])]
    kept = nodes[: nodes.index(steps[ends[-1]])] if ended else nodes
    _follow_mode(kept, constants, _trace(model, opened, training=False))

    order = {node: k for k, node in enumerate(steps)}
    order |= {
        node: -1 if node.op == "placeholder" else len(steps) for node in nodes if node.op in ("placeholder", "output")
    }

    def crossing(place: int) -> fx.Node:
        """Return the one value from before ``steps[place]`` that later steps need."""
        values = [a for a, k in order.items() if k < place and any(order[b] >= place for b in a.users)]
        if len(values) == 1:
            return values[0]
        if place in places:
            where = f"the cut at {names[places.index(place)]!r}"
        else:
            where = f"the {'output' if place else 'input'} of {type(model).__name__}"
        raise ConfigurationError(
            f"{where} is crossed by {len(values)} values ({', '.join(map(str, values[:5]))}), and a unit hands over "
            "one tensor:\ncut where the network has a single path, outside its residual blocks and branches."
        )

    pieces: list[nn.Module] = []
    for a, b in zip(starts, ends, strict=False):
        graph = fx.Graph()
        copies = {crossing(a): graph.placeholder("x")}
        parts: dict[str, Any] = {}
        for step in steps[a:b]:
            for node in [*(n for n in step.all_input_nodes if n not in order), step]:  # parameters and the mode
                if node not in copies:
                    copies[node] = graph.node_copy(node, copies.__getitem__)
                    if node.op in ("call_module", "get_attr"):
                        parts[str(node.target)] = _part(model, str(node.target), constants)
        graph.output(copies[crossing(b)])
        pieces.append(fx.GraphModule(parts, graph, f"{type(model).__name__}_{len(pieces)}"))
        pieces[-1].training = model.training
    return pieces
