"""Looking at a network without changing it, and freezing one whose layers are not made yet."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from typing_extensions import Self


class Freezable(nn.Module):
    """A module that remembers whether it is frozen, for layers that it makes later."""

    frozen: bool = False
    """Whether the last ``requires_grad_`` of this module, or of one that holds it, froze it."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze or unfreeze the module, also the layers that are made later."""
        for part in self.modules():
            if isinstance(part, Freezable):
                part.frozen = not requires_grad
        return super().requires_grad_(requires_grad)


@contextlib.contextmanager
def evaluating(module: nn.Module, views: bool = True) -> Iterator[None]:
    """Put a module into eval mode, and give every submodule its own mode back afterwards.

    With ``views=False``, a network does not average its scores over its ``views`` meanwhile.
    """
    modes = {part: part.training for part in module.modules()}
    network: Any = module  # views are an attribute of networks alone
    kept = None if views or not isinstance(module, Freezable) else getattr(network, "views", None)
    module.eval()
    if kept is not None:
        network.views = None
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        if kept is not None:
            network.views = kept
