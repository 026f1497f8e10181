"""The state of the random generators that dropout and other people's augmentations draw from, for checkpoints.

What this package draws depends on (seed, epoch, sample) alone, see :mod:`intff_lightning.draws`, and needs none of it.
"""

import random
from typing import Any

import numpy as np
import torch

__all__ = ["random_states", "restore_random_state"]


def random_states() -> list[dict[str, Any]]:
    """States of every process's generators, in the order of ranks; all processes must call it.

    Returns:
        Plain values and tensors, which a checkpoint may hold under ``weights_only``.
    """
    name, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states


def restore_random_state(states: list[dict[str, Any]], rank: int) -> None:
    """Go on with the draws of a process; another number of processes than there was draws anew.

    Args:
        states: of :func:`random_states`.
        rank: of this process.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if len(states) != (torch.distributed.get_world_size() if distributed else 1):
        return
    state = states[rank]
    torch.set_rng_state(state["torch"].cpu())
    random.setstate(_as_tuples(state["python"]))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
