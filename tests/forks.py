"""Processes that are forked from one which has imported the package: to start them takes no seconds.

As a script, this file reads a line of JSON for each group of processes, and answers with a line.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Group:
    """Processes that run one script, with the environment that ``torchrun`` gives them.

    Args:
        server: The process that forks them.
        script: A file in this folder or by its path, or the name of a module.
        arguments: Arguments of the script.
        count: Number of processes.
        log: File of their output.
    """

    def __init__(self, server: "Forks", script: str, arguments: Sequence[Any], count: int, log: Path) -> None:
        self.server, self.log = server, log
        job = {"script": script, "module": not script.endswith(".py"), "arguments": list(map(str, arguments))}
        self.pids: list[int] = server.ask(job | {"count": count, "log": str(log), "cwd": os.getcwd()})

    def wait(self) -> list[int]:
        """Wait for all processes and return their exit codes, by rank; negative after a signal."""
        return list(self.server.ask({"wait": self.pids}))

    def written(self, text: str) -> None:
        """Wait until they have written a text."""
        for _ in range(600):
            if text in self.output:
                return
            time.sleep(0.1)
        raise TimeoutError(f"no {text!r} in: {self.output[-3000:]}")

    @property
    def output(self) -> str:
        """What they have written so far."""
        return self.log.read_text() if self.log.exists() else ""


class Forks:
    """The process that forks others. Their output goes to files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.groups = folder, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # sums of several threads differ in last bits
        environment.pop("PL_GLOBAL_SEED", None)  # of another test: DDP seeds its processes by it
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen([sys.executable, __file__], text=True, env=environment, **pipes)

    def ask(self, job: dict) -> list[int]:
        """Have the process do something, and return its answer."""
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(self, script: str | Path, *arguments: Any, count: int) -> Group:
        """Start a group of processes; see :class:`Group`."""
        self.groups += 1
        return Group(self, str(script), arguments, count, self.folder / f"{self.groups}.log")

    def end(self) -> None:
        """End the process."""
        self.process.communicate(timeout=60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _fork(job: dict, rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        from lightning.pytorch.utilities import rank_zero_only

        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for own, other in ((null, 0), (log, 1), (log, 2)):
            os.dup2(own, other)
        os.chdir(job["cwd"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(job["count"]), LOCAL_WORLD_SIZE=str(job["count"]),
            GROUP_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="tests",
        )  # fmt: skip
        rank_zero_only.rank = rank  # Lightning has read it when it was imported
        sys.argv = [job["script"], *job["arguments"]]
        if job["module"]:
            runpy.run_module(job["script"], run_name="__main__")
        else:
            runpy.run_path(str(HERE / job["script"]), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve() -> None:
    gc.disable()  # a quarter of the imports is a search for garbage among what they make and keep
    import lightning  # noqa: F401
    import torch  # noqa: F401

    import intff_lightning.cli.command
    import intff_lightning.datamodules
    import intff_lightning.pipeline  # noqa: F401

    gc.freeze()
    gc.enable()

    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            answer = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in job["wait"]]
        else:
            port = _free_port()
            answer = [_fork(job, rank, port) for rank in range(job["count"])]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]  # which has the benchmarks
    _serve()
