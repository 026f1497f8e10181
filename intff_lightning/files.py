"""Writing files whole or not at all, in folders that no other run is writing to."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch.loggers import TensorBoardLogger

from intff_lightning.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Name the file and the reason if the block cannot write it.

    Raises:
        StorageError: The block raised an OSError, or the RuntimeError of ``torch.save`` that stands for one.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        if reason is None and "file write failed" not in str(error) and "unexpected pos" not in str(error):
            raise
        raise StorageError(
            f"{path} cannot be written ({reason or 'the disk may be full'}).\n"
            "Older files are whole. Check its folder and the space on the disk; training resumes with --ckpt_path last."
        ) from error


def storing_events(logger: TensorBoardLogger) -> contextlib.AbstractContextManager[None]:
    """Name the event files of a logger if they cannot be written. A thread writes them, whose error does not."""
    return storing(Path(logger.log_dir) / "events.out.tfevents")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file beside its target, sync it to the disk, and rename it.

    A reader, or a run that is killed, sees the old file or the new one, never a part. Missing folders are made.

    Args:
        path: The target.

    Yields:
        Path of the file to write, in the same folder; it is removed if the block raises.

    Raises:
        StorageError: The file cannot be written; an older one stays whole.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def lock_folder(folder: Path, patience: float = 1.0, shared: bool = False) -> contextlib.ExitStack | None:
    """Make a folder and lock it for this process, which lets go of it at its end, however it ends.

    Args:
        folder: The folder.
        patience: Seconds to wait while another process has the lock: it may only be looking, see :func:`is_locked`.
        shared: Whether other processes may have a shared lock at the same time.

    Returns:
        What releases the lock, or ``None`` if another process has it. Where folders cannot be locked, nothing is.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = contextlib.ExitStack()
    if fcntl is not None:
        descriptor = os.open(folder, os.O_RDONLY)
        lock.callback(os.close, descriptor)
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    lock.close()
                    return None
                time.sleep(0.02)
            except OSError:  # some network file systems have no such locks
                break
            else:
                break
    return lock


def is_locked(folder: Path) -> bool:
    """Tell whether a run is writing to this folder."""
    lock = lock_folder(folder, patience=0, shared=True)
    if lock is not None:
        lock.close()
    return lock is None


def new_folder(parent: Path, prefix: str = "version_") -> Path:
    """Make a folder ``parent/version_N`` that did not exist, with the next free number, and return its path."""
    with storing(parent):
        parent.mkdir(parents=True, exist_ok=True)
    numbers = [path.name.removeprefix(prefix) for path in parent.glob(f"{prefix}*")]
    number = max((int(n) for n in numbers if n.isdigit()), default=-1) + 1
    while True:
        folder = parent / f"{prefix}{number}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run was faster
            number += 1
        else:
            return folder
