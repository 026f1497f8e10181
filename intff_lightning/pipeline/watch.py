"""Watching the processes of a pipeline: one that fails, hangs or is lost ends all of them, with one message."""

import atexit
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # torch exports them at run time

from intff_lightning.pipeline.stage import PipelineStage

_BEAT = 0.5  # seconds between two signs of life
_LOST = 10.0  # seconds without one after which a process counts as lost
_LEAVE = 6.0  # seconds that the others give the process that speaks
_FIRST = 300.0  # seconds that the first step of a unit may take: it may be compiled


def open_store(host: str, port: int, processes: int, holds: bool) -> TCPStore:
    """Open the store that all processes share; the process that holds it may leave the port, 0, to the system."""
    return TCPStore(host, port, processes, holds, wait_for_workers=False)


class Watch(threading.Thread):
    """A thread that tells the other processes that this one lives, and watches them and the steps of its own units.

    The first process to notice a failure claims it and speaks; all others end without a word.

    Args:
        store: A store that all processes share.
        rank: Rank of this process; rank 0 holds the store.
        world: Number of processes.
        describe: Names a process by its rank, and the unit that it was in.
        timeout: Seconds that a unit may take for a batch, unless ten times its longest step so far is more.
    """

    def __init__(
        self, store: TCPStore, prefix: str, rank: int, world: int, describe: Callable[[int, int | None], str],
        timeout: float,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True, name="pipeline-watch")
        self._store = PrefixStore(prefix, store)
        self.rank, self.world, self._describe, self._timeout = rank, world, describe, timeout
        self.stage: PipelineStage | None = None
        self.stop_asked = False
        """Whether any process was asked to stop training."""
        self._ask_stop = False
        self._ended = threading.Event()
        self._speaks = False
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._host = socket.gethostname()
        self._beats = self._turns = 0
        self.beat()

    # ---------------------------------------------------------------- signs of life

    def beat(self) -> None:
        """Tell the others that this process lives, and which unit it is in."""
        self._beats += 1
        unit = None if self.stage is None else self.stage.unit
        news = {"beat": self._beats, "unit": unit, "pid": os.getpid(), "host": self._host, "stop": self._ask_stop}
        self._store.set(f"beat/{self.rank}", json.dumps(news))

    def ask_for_stop(self) -> None:
        """Ask the first stage to end the training after its next batch."""
        if not self._ask_stop:
            self._ask_stop = True
            self.beat()

    def start(self) -> None:
        """Begin to watch. All processes have been made, and have given their first sign of life."""
        self._note_beats()
        super().start()

    def run(self) -> None:
        threading.Thread(target=self._guard, daemon=True, name="pipeline-guard").start()
        while not self._ended.wait(_BEAT):
            self._turns += 1
            try:
                self._need_store()
                self.beat()
                failure = self._store.get("failure").decode() if self._store.check(["failure"]) else ""
                if failure and not self._speaks:
                    self._leave()
                if not failure:
                    self._look()
            except RuntimeError:  # the store is gone, and with it rank 0
                if not self._ended.is_set() and not self._speaks:
                    self._without_store()

    def _guard(self) -> None:
        """Notice that the store does not answer: rank 0 is stopped or cut off, and the thread itself waits for it."""
        turns, since = self._turns, time.monotonic()
        while not self._ended.wait(1.0):
            if self._turns != turns:
                turns, since = self._turns, time.monotonic()
            elif time.monotonic() - since > _LOST and not self._speaks:
                self._without_store()

    def _note_beats(self) -> None:
        for rank in range(self.world):
            beat = self._store.get(f"beat/{rank}")
            if rank not in self._seen or self._seen[rank][0] != beat:
                self._seen[rank] = beat, time.monotonic()
            self.stop_asked |= bool(json.loads(beat)["stop"])

    def _look(self) -> None:
        self._note_beats()
        lost = self.lost()
        if lost is not None:
            self._speak(self.loss(lost))
        if self.stage is not None:
            unit, taken, longest = self.stage.unit, time.monotonic() - self.stage.since, self.stage.longest
            if unit is not None and taken > max(self._timeout, 10 * longest[unit] if unit in longest else _FIRST):
                self._speak(
                    f"{self._describe(self.rank, unit)} hangs: no progress for {taken:.0f} s.\n"
                    "If a step takes that long, raise UnitPipelineStrategy(timeout=...)."
                )

    def lost(self) -> int | None:
        """Return the rank of a process that has given no sign of life for a while, or has ended."""
        for rank, (beat, last) in self._seen.items():
            news = json.loads(beat)
            if rank != self.rank and (time.monotonic() - last > _LOST or self._has_ended(news)):
                return rank
        return None

    def _has_ended(self, news: dict[str, Any]) -> bool:
        """Tell whether a process of this machine has ended; one that its parent has not noticed is a zombie."""
        if news["host"] != self._host:
            return False
        try:
            with open(f"/proc/{news['pid']}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] in "ZX"
        except FileNotFoundError:
            return os.path.isdir("/proc/self")

    def _rank_has_ended(self, rank: int) -> bool:
        return rank in self._seen and self._has_ended(json.loads(self._seen[rank][0]))

    def loss(self, rank: int) -> str:
        """Return the message about a process that was lost."""
        news = json.loads(self._seen[rank][0])
        ended = self._has_ended(news)
        what = "was killed" if ended else f"gave no sign of life for {_LOST:.0f} s"
        hint = "The system kills processes when memory runs out." if ended else "It may be stopped or cut off."
        return f"{self._describe(rank, news['unit'])} was lost: its process {news['pid']} {what}.\n{hint}"

    # ---------------------------------------------------------------- a failure

    def claim(self, message: str) -> bool:
        """Tell the other processes to end; return whether this one speaks, because it is the first."""
        token = f"{self.rank} {message}"
        try:
            self._need_store()
            self._speaks = self._store.compare_set("failure", "", token).decode() == token
        except RuntimeError:
            self._speaks = self._first_alive()
        return self._speaks

    def wait_for_others(self) -> None:
        """Wait until the others have noticed. They leave when this process has ended; those that hang are killed."""
        end = time.monotonic() + 4 * _BEAT
        try:
            self._need_store()
            while time.monotonic() < end and self._store.add("noticed", 0) < self.world - 1:
                time.sleep(0.05)
            atexit.register(self._done)
        except RuntimeError:  # without the store, the others keep silent as long as this process lives
            time.sleep(4 * _BEAT)

    def _done(self) -> None:
        """Let the others leave, and be the last to use the store."""
        if threading.current_thread() is not self:
            self._ended.set()
            self.join(4 * _BEAT)
        with contextlib.suppress(RuntimeError):
            self._store.set("done", "")
            self._kill_stragglers()
            self._leave_store()

    def _leave_store(self) -> None:
        """Note that this process uses the store no more; rank 0, which holds it, waits for the others."""
        self._store.set(f"left/{self.rank}", "")
        end = time.monotonic() + _LEAVE
        while self.rank == 0 and time.monotonic() < end and not all(map(self._has_left, range(self.world))):
            time.sleep(0.05)

    def _has_left(self, rank: int) -> bool:
        return self._store.check([f"left/{rank}"]) or self._has_ended(json.loads(self._store.get(f"beat/{rank}")))

    def _kill_stragglers(self) -> None:
        """Kill the processes of this machine that have not noticed: they are stopped, or hang outside of Python."""
        for rank, (beat, _) in self._seen.items():
            if rank != self.rank and not self._store.check([f"noticed/{rank}"]):
                self._kill(json.loads(beat))

    def _speak(self, message: str) -> None:
        """Say what is wrong, and end this process."""
        if not self.claim(message):
            return
        sys.stdout.flush()
        sys.stderr.write(f"error: {message}\n")
        sys.stderr.flush()
        self.wait_for_others()
        self._done()
        os._exit(1)

    def _leave(self) -> None:
        """End without a word, after the process that speaks."""
        self._store.set(f"noticed/{self.rank}", "")
        self._store.add("noticed", 1)
        end = time.monotonic() + _LEAVE
        with contextlib.suppress(RuntimeError):
            while time.monotonic() < end and not self._store.check(["done"]):
                time.sleep(0.05)
            self._leave_store()
        os._exit(1)

    def wait_for_loss(self) -> int | None:
        """Return the rank of a process that has ended, as soon as that is known, in the main thread."""
        end = time.monotonic() + 4 * _BEAT
        while time.monotonic() < end:
            lost = self.lost()
            if lost is not None:
                return lost
            time.sleep(0.05)
        return None

    def leave(self) -> None:
        """Wait for the end, in the main thread: another process speaks."""
        time.sleep(2 * _LEAVE)
        os._exit(1)

    def _need_store(self) -> None:
        """Raise an error, and not torch's warnings, if rank 0 has ended, which holds the store."""
        if self.rank != 0 and self._rank_has_ended(0):
            raise RuntimeError("the store is gone")

    def _first_alive(self) -> bool:
        """Tell whether no process of a lower rank lives but rank 0, which is lost."""
        return all(map(self._rank_has_ended, range(1, self.rank)))

    def _without_store(self) -> None:
        """End after rank 0 was lost; the first of the other processes speaks, if its main thread has not."""
        time.sleep(2 * _BEAT)
        if self._speaks:
            return
        if self._first_alive():
            sys.stderr.write(f"error: {self.loss(0)}\n")
            sys.stderr.flush()
            self._kill(json.loads(self._seen[0][0]))
            time.sleep(4 * _BEAT)  # the others keep silent as long as this process lives
        os._exit(1)

    def _kill(self, news: dict[str, Any]) -> None:
        """Kill a process of this machine."""
        if news["host"] == self._host:
            with contextlib.suppress(ProcessLookupError):
                os.kill(news["pid"], signal.SIGKILL)

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        if self.is_alive():
            self.join()
