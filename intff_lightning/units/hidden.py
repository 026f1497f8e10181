"""Hidden units: one to three layers with a local loss and an optimizer of their own (Tang 2023, section 3.2)."""

import copy
import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from intff_lightning.errors import ConfigurationError
from intff_lightning.functional import at_least_float32
from intff_lightning.labels import LabelledImages
from intff_lightning.local import Goodness, LocalLoss, MeanSquares, SoftplusLoss, UnitL2
from intff_lightning.modes import Freezable, evaluating
from intff_lightning.optim import OptimizerFactory, SchedulerFactory, check_clipping, check_factories
from intff_lightning.recipe import RecordedModule, from_recipe
from intff_lightning.sequences import PaddedShape, TokenShape, example


class HiddenUnit(Freezable, RecordedModule):
    r"""A unit around any body: :math:`h = f(\operatorname{normalize}(x))`, trained on its local loss :math:`L(g(h))`.

    Args:
        body: Any module ``(B, *) -> (B, *)``, including its last activation function (ReLU in the paper).
        normalization: Normalization of the unit's input; ``None`` takes the module's default, else
            :class:`~intff_lightning.local.UnitL2`.
        goodness: Goodness of the unit's output; ``None`` takes the module's default, else
            :class:`~intff_lightning.local.MeanSquares`.
        loss: Local loss; ``None`` takes the module's default, else :class:`~intff_lightning.local.SoftplusLoss`.
        optimizer: Optimizer of this unit, ``parameters -> Optimizer``; ``None`` takes the module's.
        scheduler: Learning-rate schedule of this unit, ``optimizer -> LRScheduler``; ``None`` takes the module's.
        gradient_clip_val: Gradient clipping of this unit; ``None`` takes the module's.
    """

    reads_tokens: bool = False
    """Whether the unit takes token ids, and so may be the first one for token sequences."""
    reads_padding: bool = False
    """Whether the unit takes sequences with padded positions, and does not let them count."""
    input_shape: tuple[int, ...] = ()
    """Shape of one sample of the input, known after :meth:`setup`."""
    output_shape: tuple[int, ...] = ()
    """Shape of one sample's activations, known after :meth:`setup`."""

    def __init__(
        self,
        body: nn.Module,
        normalization: nn.Module | None = None,
        goodness: Goodness | None = None,
        loss: LocalLoss | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        gradient_clip_val: float | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.normalization = UnitL2() if normalization is None else normalization
        self.goodness = MeanSquares() if goodness is None else goodness
        self.loss = SoftplusLoss() if loss is None else loss
        check_factories(optimizer, scheduler)
        check_clipping(gradient_clip_val)
        self.optimizer, self.scheduler, self.gradient_clip_val = optimizer, scheduler, gradient_clip_val
        own = {"normalization": normalization, "goodness": goodness, "loss": loss}
        self._own_parts = {name for name, part in own.items() if part is not None}

    def use_defaults(self, **parts: nn.Module | None) -> None:
        """Take copies of the parts that this unit was not given: ``normalization``, ``goodness`` and ``loss``."""
        for name, part in parts.items():
            if part is not None and name not in self._own_parts:
                self.add_module(name, copy.deepcopy(part))

    def make_body(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the body for inputs ``(B, *input_shape)``. Unit families override it; a given body stays."""
        return self.body

    def body_for(self, input_shape: tuple[int, ...]) -> nn.Module:
        """Return the body for inputs that may be token ids or have padding; refuse them if the unit does not read them.

        The body of a plain HiddenUnit may read token ids, if it returns one vector per sequence.
        """
        self.check_input(input_shape)
        return self.make_body(input_shape)

    def check_input(self, input_shape: tuple[int, ...]) -> None:
        """Refuse token ids or padding that the unit does not read."""
        if isinstance(input_shape, TokenShape) and not (self.reads_tokens or type(self) is HiddenUnit):
            raise ConfigurationError("cannot read token ids: put an EmbeddingUnit first.")
        if isinstance(input_shape, PaddedShape) and not self.reads_padding:
            raise ConfigurationError(
                "would read the padding of its sequences like tokens: use a RecurrentUnit, an AttentionUnit or a "
                "DenseUnit, or derive your unit from SequenceUnit."
            )

    def shape_after(self, input_shape: tuple[int, ...], h: Tensor) -> tuple[int, ...]:
        """Return the shape of one sample of the activations ``h`` of inputs of a shape."""
        if isinstance(input_shape, TokenShape) and h.ndim > 2:
            raise ConfigurationError(
                f"returns {tuple(h.shape[1:])} for token ids, and not which positions are padding: return one vector "
                "per sequence, or derive the unit from SequenceUnit."
            )
        return tuple(h.shape[1:])

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Build the body and prepare the goodness. The module calls this once.

        Args:
            input_shape: Shape of one sample of the unit's input.
            num_classes: Number of classes.

        Raises:
            ConfigurationError: The body does not accept the input, or the goodness does not accept the body's output.
        """
        self.input_shape = input_shape
        made = self.body_for(input_shape)
        if self.frozen and made is not self.body:
            made.requires_grad_(False)
        self.body = made
        like = next(self.parameters(), torch.empty(0))
        try:
            # eval mode: a look at the shapes must not move batch statistics or draw dropout masks
            with torch.no_grad(), evaluating(self):
                output = self(example(input_shape, 2, like))
                self.output_shape = self.shape_after(input_shape, output)
                self.goodness.setup(self.output_shape, num_classes)
                self.goodness.to(like)
                if self.frozen:
                    self.goodness.requires_grad_(False)
                goodness = self.goodness(output)
        except ConfigurationError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigurationError(f"cannot take an input of shape {tuple(input_shape)}: {reason}") from None
        expected = (2, num_classes) if self.goodness.by_class else (2,)
        if tuple(goodness.shape) != expected:
            raise ConfigurationError(f"goodness has shape {tuple(goodness.shape)} for 2 samples; {expected} is needed.")

    def forward(self, x: Tensor | LabelledImages) -> Tensor:
        """Return the activations ``(B, *)`` of the output neurons.

        Args:
            x: Inputs ``(B, *)`` before normalization, or B images under L labels each, which give ``(L * B, *)``.
        """
        return self.activations(x)[-1]

    def activations(self, x: Tensor | LabelledImages) -> list[Tensor]:
        """Return the activations ``(B, *)`` of each layer: each child of a Sequential body, or the body itself."""
        h = self.normalize(x.dense() if isinstance(x, LabelledImages) else x)
        outputs = []
        for layer in self.body if isinstance(self.body, nn.Sequential) else [self.body]:
            h = layer(h)
            outputs.append(h)
        return outputs

    def normalize(self, x: Tensor) -> Tensor:
        """Normalize inputs ``(B, *)``; token ids stay as they are."""
        normalized: Tensor = x if x.dtype == torch.int64 else self.normalization(x)
        return normalized

    def describe(self) -> str:
        """Describe the body in a few words, for tables."""
        return type(self.body).__name__


Initialization = Literal["default", "glorot_uniform", "kaiming_normal"]


def initialize(layer: nn.Module, initialization: Initialization) -> None:
    """Draw the weights of a layer: torch's ``default``, or ``glorot_uniform`` or ``kaiming_normal`` with zero bias."""
    if initialization == "default":
        return
    weight: Any = layer.weight
    if initialization == "glorot_uniform":
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.kaiming_normal_(weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # a parameter


def activation_layer(name: str) -> nn.Module:
    """Make an activation function by the name of its class in :mod:`torch.nn`, in place if it can be.

    Raises:
        ConfigurationError: There is no such class.
    """
    kind = vars(nn).get(name)
    if not isinstance(kind, type):
        raise ConfigurationError(f"activation={name!r}: torch.nn has no such class; ReLU or GELU, for example.")
    # the layer before does not need its output for its backward pass, so this halves the memory of activations
    options = {"inplace": True} if "inplace" in inspect.signature(kind).parameters else {}
    layer: nn.Module = kind(**options)
    return layer


class UnitStack(Freezable, nn.ModuleList):
    """The hidden units of a network, in order.

    ``append`` adds a unit, also to a network that is built or trained: the unit is set up for the output of the last
    one, votes unless ``vote`` was given, and is recorded in checkpoints. ``stack[k] = unit`` replaces a unit, and
    ``insert`` and ``pop`` work too, if the units that follow still take the output of the one before.

    Args:
        units: Hidden units, recipes of units, or plain modules, which become the bodies of units.
        **defaults: Parts for units that have none of their own, see :meth:`HiddenUnit.use_defaults`.

    Raises:
        ConfigurationError: There is no unit, or one is not a module or does not fit the others.
    """

    def __init__(self, units: Iterable[Any], **defaults: nn.Module | None) -> None:
        super().__init__()
        self._defaults = {name: from_recipe(part) for name, part in defaults.items()}
        self._sizes: tuple[tuple[int, ...], int] | None = None
        self.extend(from_recipe(list(units)))
        if not len(self):
            raise ConfigurationError("units is empty: a network needs one hidden unit or more.")
        self._given = list(self)

    @property
    def changed(self) -> bool:
        """Whether units were added, replaced or removed since the stack was made."""
        return list(self) != self._given

    def setup(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        """Set up every unit for the output of the one before; see :meth:`HiddenUnit.setup`."""
        self._sizes = input_shape, num_classes
        for k, unit in enumerate(self):
            self._setup_unit(k, unit)

    def forward(self, x: Tensor | LabelledImages, first: int | None = None) -> Tensor:
        """Return the goodness of all units, or of the first so many, for ``(B, *)``: ``(U, B)``, or ``(U, B, C)``."""
        goodness = []
        for unit in itertools.islice(self, first):
            x = unit(x)
            goodness.append(at_least_float32(unit.goodness(x)))
        return torch.stack(goodness)

    def _setup_unit(self, k: int, unit: HiddenUnit) -> None:
        assert self._sizes is not None
        try:
            unit.setup(self[k - 1].output_shape if k else self._sizes[0], self._sizes[1])
        except ConfigurationError as error:
            raise ConfigurationError(f"unit_{k} {error}") from None
        if next(unit.parameters(), None) is None:
            raise ConfigurationError(f"unit_{k} has no parameters to train: put its layers into another unit.")

    def _adopted(self, k: int, module: Any) -> HiddenUnit:
        """Return a module as unit k, set up if the network is built."""
        if not isinstance(module, nn.Module):
            raise ConfigurationError(f"unit_{k} is {module!r}: a HiddenUnit, or any torch.nn.Module, is needed.")
        unit = module if isinstance(module, HiddenUnit) else HiddenUnit(module)
        unit.use_defaults(**self._defaults)
        if self._sizes is not None:
            if unit.goodness.by_class != self[0].goodness.by_class:
                raise ConfigurationError("goodness by class (ChannelGoodness) is for all units, or for none of them.")
            self._setup_unit(k, unit)
            unit.to(next(self.parameters()))
        return unit

    def append(self, module: nn.Module) -> "UnitStack":
        self.add_module(str(len(self)), self._adopted(len(self), module))
        return self

    def extend(self, modules: Iterable[nn.Module]) -> "UnitStack":
        for module in modules:
            self.append(module)
        return self

    def __setitem__(self, index: int, module: nn.Module) -> None:
        k = range(len(self))[index]
        unit = self._adopted(k, module)
        self._check([*list(self)[:k], unit, *list(self)[k + 1 :]])
        super().__setitem__(k, unit)

    def __delitem__(self, index: int | slice) -> None:
        left = list(self)
        del left[index]
        self._check(left)
        super().__delitem__(index)

    def insert(self, index: int, module: nn.Module) -> None:
        k = len(list(self)[:index])
        unit = self._adopted(k, module)
        self._check([*list(self)[:k], unit, *list(self)[k:]])
        super().insert(k, unit)

    def _check(self, units: Sequence[HiddenUnit]) -> None:
        """Refuse units of a built network if one does not take the output of the one before."""
        if not units:
            raise ConfigurationError("units is empty: a network needs one hidden unit or more.")
        if self._sizes is None:
            return
        like = next(self.parameters())
        x = example(self._sizes[0], 2, like)
        for k, unit in enumerate(units):
            try:
                with torch.no_grad(), evaluating(unit):
                    x = unit(x)
            except (RuntimeError, ValueError, IndexError) as error:
                reason = str(error).splitlines()[0]
                raise ConfigurationError(
                    f"unit_{k} would not take an input of shape {tuple(x.shape[1:])}, and its layers are built: "
                    f"{reason}.\nMake a new network for other sizes."
                ) from None

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[HiddenUnit]: ...

        def __getitem__(self, index: int) -> HiddenUnit: ...  # type: ignore[override]  # no slices here
