"""The states of the global random generators: saved with a checkpoint, and restored when a run resumes.

Dropout, and augmentations of your own, draw from these generators. What this package draws depends on (seed, epoch,
sample) alone, see :mod:`intff_lightning.draws`.
"""

import random
from typing import Any

import numpy as np
import torch


def _process_count() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def random_state() -> dict[str, Any]:
    """Return the states of the global random generators of this process."""
    name, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def gather_random_states(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of all processes, by rank, from that of each. All processes must call it."""
    if _process_count() == 1:
        return [state]
    states: list[Any] = [None] * _process_count()
    torch.distributed.all_gather_object(states, state)
    return states


def restore_random_state(states: list[dict[str, Any]], rank: int) -> None:
    """Restore the state of one process; if the number of processes has changed, draws start anew."""
    if len(states) != _process_count():
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
