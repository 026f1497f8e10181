"""What a checkpoint holds, and how it is written, found and read.

Beside Lightning's own keys, a checkpoint of this package holds

- ``hyper_parameters``: the module's arguments in plain values (:mod:`intff_lightning.recipe`);
- ``recipes``: ``model`` and ``data``, the recipes of the network and of its data, and ``probe``, the arguments of
  :class:`~intff_lightning.callbacks.LinearProbe`, so that a checkpoint can rebuild all of them;
- ``training``: ``losses``, the sums of the epoch so far, and ``random``, the random states of all processes;
- the states of callbacks, and of the datamodule: the seed in force and the place in the epoch.

All values load under torch's ``weights_only``.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from intff_lightning.errors import CheckpointError
from intff_lightning.files import atomic_write

# -------------------------------------------------------------------- files


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, syncs it to the disk, and renames it.

    Lightning writes to a temporary folder that may be on another file system, where a rename is a copy.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if "://" in str(path):  # a remote path is Lightning's task
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            with atomic_write(Path(path)) as partial:
                torch.save(checkpoint, partial)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, on the CPU; refuse a file that is none, or is damaged."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"]
    except Exception as error:  # torch's reader raises anything for a damaged file
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{path} is not a checkpoint, or is damaged ({reason}).") from None
    return checkpoint


_RUNS = "lightning_logs"


def find_checkpoint(name: str, root: Path) -> Path | None:
    """Return the newest ``last.ckpt`` or ``best.ckpt`` of all runs under ``root``, or ``None`` if there is none."""
    found = (root / _RUNS).glob(f"version_*/checkpoints/{name}.ckpt")
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def resumed_version(path: str | Path | None, root: Path) -> int | None:
    """Return the number of the run whose ``last.ckpt`` this is, or ``None`` if it belongs to no run under ``root``."""
    path = Path(path or "").absolute()
    run = path.parent.parent
    number = run.name.removeprefix("version_")
    if path.name == "last.ckpt" and run.parent == (root / _RUNS).absolute() and number.isdigit():
        return int(number)
    return None


# -------------------------------------------------------------------- random states


def _process_count() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def random_states() -> list[dict[str, Any]]:
    """Return the states of the global random generators of all processes, by rank. All processes must call it.

    Dropout, and augmentations of your own, draw from them. What this package draws depends on (seed, epoch, sample)
    alone, see :mod:`intff_lightning.draws`.
    """
    name, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
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
