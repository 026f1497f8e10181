"""Optimizers and learning-rate schedules of units: factories, and two classes that torch lacks."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiplicativeLR, ReduceLROnPlateau

from intff_lightning.errors import ConfigurationError
from intff_lightning.lightning_compat import set_learning_rates

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


class CosineDecay(LRScheduler):
    """Half a cosine from the optimizer's learning rate to zero over the whole run, stepped once per batch.

    A run that is resumed with another length continues on the cosine of that length.

    Args:
        optimizer: Optimizer whose learning rates are scheduled.
        total_steps: Number of steps in the run; the module fills it in if it is ``None``.
        warmup: Share of the run, from 0 to 1, over which the learning rate first rises linearly from zero.
    """

    def __init__(self, optimizer: Optimizer, total_steps: int | None = None, warmup: float = 0.0) -> None:
        if total_steps is None or total_steps < 1:
            raise ConfigurationError(f"CosineDecay needs the length of the run, not total_steps={total_steps}.")
        if not 0 <= warmup < 1:
            raise ConfigurationError(f"CosineDecay(warmup={warmup}): give a share of the run, 0 <= warmup < 1.")
        self.total_steps, self.warmup = total_steps, warmup
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of each parameter group for the next step."""
        warmup = self.warmup * self.total_steps
        if self.last_epoch < warmup:
            factor = (self.last_epoch + 1) / (warmup + 1)
        else:
            progress = (self.last_epoch - warmup) / (self.total_steps - warmup)
            factor = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return everything but the length of the run, which may differ after a resume."""
        return {name: value for name, value in super().state_dict().items() if name != "total_steps"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "total_steps": self.total_steps})
        set_learning_rates(self, self.get_lr())


def make_scheduler(
    factory: SchedulerFactory, optimizer: Optimizer, total_steps: float
) -> tuple[LRScheduler | ReduceLROnPlateau, str]:
    """Make a schedule, and tell whether it is stepped once per ``"step"`` or per ``"epoch"``.

    A schedule over the whole run, such as OneCycleLR, has the argument ``total_steps``. It is given the length of the
    run unless the user set it, and it is stepped once per batch. Any other schedule is stepped once per epoch.
    """
    parts = (factory.func, *factory.args) if isinstance(factory, functools.partial) else (factory,)
    cls = next((part for part in parts if isinstance(part, type)), None)
    if cls is None or "total_steps" not in inspect.signature(cls).parameters:
        return factory(optimizer), "epoch"
    keywords = factory.keywords if isinstance(factory, functools.partial) else {}
    if keywords.get("total_steps") is not None or keywords.get("epochs") is not None:
        return factory(optimizer), "step"
    if math.isinf(total_steps) or total_steps < 0:  # Lightning gives -1 for a stream
        raise ConfigurationError(
            f"{cls.__name__} needs the length of the run: set --trainer.max_epochs or --trainer.max_steps."
        )
    return factory(optimizer, total_steps=int(total_steps)), "step"  # type: ignore[call-arg]  # cls has the argument


def check_factories(optimizer: Any, scheduler: Any) -> None:
    """Refuse what is neither a function that makes an optimizer or a schedule, nor its recipe."""
    for name, value, example in (
        ("optimizer", optimizer, "torch.optim.Adam, lr=0.002"),
        ("scheduler", scheduler, "torch.optim.lr_scheduler.StepLR, step_size=10"),
    ):
        if value is not None and not callable(value) and not isinstance(value, Mapping):
            shown = repr(value) if isinstance(value, str) else f"of type {type(value).__name__}"
            raise ConfigurationError(
                f"{name} is {shown}, and a function that makes one is needed, because every unit has its own:\n"
                f"{name}=functools.partial({example})."
            )


def check_clipping(value: float | None) -> None:
    """Refuse a bound of gradients below zero, which would clip nothing."""
    if value is not None and not value >= 0:
        raise ConfigurationError(f"gradient_clip_val={value}: a number of 0 or more is needed; 0 does not clip.")


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose ``eps`` is zero in float16.

    Adam divides by the root of the mean square of gradients plus ``eps``, and in float16 both of them underflow.
    """
    for group in optimizer.param_groups:
        half = any(p.dtype == torch.float16 for p in group["params"])
        if half and group.get("eps") and not torch.tensor(group["eps"], dtype=torch.float16):
            raise ConfigurationError(
                f"{type(optimizer).__name__}'s eps={group['eps']:g} is zero in float16, so its steps would be NaN.\n"
                "Use precision 16-mixed or bf16-true, which keep small numbers, or give eps=0.0001."
            )


def include_groups(schedule: LRScheduler | ReduceLROnPlateau) -> None:
    """Have a schedule include groups that were added to its optimizer; their rates keep their ratio to the first."""
    first, *further = schedule.optimizer.param_groups
    bases = vars(schedule).get("base_lrs")
    if bases is None:  # a ReduceLROnPlateau has none, and takes any number of groups
        return
    for group in further[len(bases) - 1 :]:
        ratio = group["lr"] / (first["lr"] or first["initial_lr"])
        for name, value in first.items():
            group.setdefault(name, value * ratio if name.endswith("_lr") else value)
        bases.append(group["initial_lr"])
        if isinstance(schedule, LambdaLR | MultiplicativeLR):
            schedule.lr_lambdas.append(schedule.lr_lambdas[0])


def group_by_decay(network: nn.Module, parameters: Sequence[Tensor], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return two parameter groups, the second one without weight decay.

    It takes the parameters that belong to one of the names: a part of the parameter's own name (``bias`` is also a part
    of ``in_proj_bias``), or the class of its layer (``LayerNorm``).
    """
    spared: set[int] = set()
    for name in names:
        layers = [(type(layer).__name__, layer.named_parameters(recurse=False)) for layer in network.modules()]
        found = {id(p) for kind, inner in layers for own, p in inner if name in own or name == kind}
        if not found:
            raise ConfigurationError(
                f"no_decay: no parameter and no layer of the network is called {name}; leave it out."
            )
        spared |= found
    kept, free = ([p for p in parameters if (id(p) in spared) == side] for side in (False, True))
    return [{"params": kept}, {"params": free, "weight_decay": 0.0}] if names else [{"params": kept}]


class KerasAdam(Optimizer):
    r"""Adam as Keras computes it, for the paper's figures: epsilon is added before bias correction.

    .. math:: p \leftarrow p - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m_t}{\sqrt{v_t} + \epsilon}

    The author's units share one optimizer object and so its step counter t, which also counts the inner steps of the
    other units. ``shared_by``, ``inner_steps`` and ``position`` reproduce that with one optimizer per unit.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate; the author's is 0.03.
        betas: Decay rates of the two moments.
        eps: Keras's 1e-7.
        shared_by: Number of units that share the counter.
        inner_steps: Number of steps that a unit takes in a row.
        position: Position of this unit among them, from 0.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-7,
        shared_by: int = 1,
        inner_steps: int = 1,
        position: int = 0,
    ) -> None:
        if not 0 <= position < shared_by or inner_steps < 1:
            raise ConfigurationError(
                f"KerasAdam(shared_by={shared_by}, inner_steps={inner_steps}, position={position}): "
                "position counts from 0 to shared_by - 1, inner_steps from 1."
            )
        self.shared_by, self.inner_steps, self.position = shared_by, inner_steps, position
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                turn, inner = divmod(state["step"], self.inner_steps)
                t = (turn * self.shared_by + self.position) * self.inner_steps + inner + 1
                state["step"] += 1
                state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
                state["exp_avg_sq"].lerp_(parameter.grad.square(), 1 - beta2)
                rate = group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t)
                parameter.addcdiv_(state["exp_avg"], state["exp_avg_sq"].sqrt().add_(group["eps"]), value=-rate)
        return loss
