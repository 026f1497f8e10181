"""The states of the global random generators: saved with a checkpoint, and restored when a run resumes.

Dropout, and augmentations of your own, draw from these generators. What this package draws depends on (seed, epoch,
sample) alone, see :mod:`intff_lightning.draws`.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def process_count() -> int:
    """Return the number of processes of the run."""
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


@contextlib.contextmanager
def replaying(states: list[torch.Tensor], device: torch.device) -> Iterator[None]:
    """Give the block torch's random numbers as they were at :func:`device_states`; the present ones return after it."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.set_rng_state(states[0])
        if cuda:
            torch.cuda.set_rng_state(states[1], device)
        yield


def device_states(device: torch.device) -> list[torch.Tensor]:
    """Return the states of torch's generators on the CPU and on a device."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def gather_random_states(state: dict[str, Any], number: int, count: int) -> list[dict[str, Any]]:
    """Return the states of the processes that share the data, from that of each. All processes must call it.

    Processes that read the same data, because they hold different units of a network, have the same state.

    Args:
        state: State of this process.
        number: Number of this process among those that share the data.
        count: How many these are.
    """
    if process_count() == 1:
        return [state]
    found: list[Any] = [None] * process_count()
    torch.distributed.all_gather_object(found, (number, state))
    states = dict(reversed(found))
    return [states[n] for n in range(count)]


def restore_random_state(states: list[dict[str, Any]], number: int, count: int) -> None:
    """Restore the state of process ``number`` of ``count``; if the number has changed, draws start anew."""
    if len(states) != count:
        return
    state = states[number]
    torch.set_rng_state(state["torch"].cpu())
    random.setstate(_as_tuples(state["python"]))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list | tuple) else value
