"""Messages between neighbouring stages of a pipeline: lists of tensors, sent and received in the background."""

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from intff_lightning.errors import PipelineError

_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64]
_ALIGNED = 64  # bytes; the kernels of a CPU may add up in another order in memory that is not aligned
_AHEAD = 3  # frames that may be under way before a sender waits


Explain = Callable[[], str]
"""Says which process was lost."""


@contextlib.contextmanager
def connected(explain: Explain) -> Iterator[None]:
    """Turn torch's error of a broken connection into one that says which process was lost."""
    try:
        yield
    except PipelineError:
        raise
    except RuntimeError as error:
        raise PipelineError(explain()) from error


def pack(tensors: Sequence[Tensor], flag: int, device: torch.device) -> Tensor:
    """Return tensors and a number as one tensor of bytes, a frame.

    A frame begins with int64 numbers: its size in bytes, how many of these numbers there are, the flag, and for each
    tensor its dtype, number of dimensions, sizes, and dimensions in the order of their strides, so that a tensor in
    channels-last format arrives as one. The data of the tensors follow, aligned.
    """
    header, parts = [0, 0, flag], []
    for tensor in tensors:
        strides = tensor.stride()
        order = sorted(range(tensor.ndim), key=lambda d: (-strides[d], d))
        header += [_DTYPES.index(tensor.dtype), tensor.ndim, *tensor.shape, *order]
        parts.append(tensor.permute(order))
    header[1] = len(header)
    places = [_aligned(8 * len(header))]
    for tensor in tensors:
        places.append(_aligned(places[-1] + tensor.nbytes))
    header[0] = places[-1]
    frame = torch.empty(places[-1], dtype=torch.uint8, device=device)
    frame[: 8 * len(header)].view(torch.int64).copy_(torch.tensor(header))
    for part, place in zip(parts, places, strict=False):
        frame[place : place + part.nbytes].view(part.dtype).view(part.shape).copy_(part)
    return frame


def unpack(frame: Tensor, header: Sequence[int]) -> tuple[list[Tensor], int]:
    """Return the tensors and the flag of a frame that begins with these numbers. The tensors are views of the frame."""
    tensors, place, begin = [], 3, _aligned(8 * len(header))
    while place < len(header):
        dtype, ndim = _DTYPES[header[place]], header[place + 1]
        sizes, order = header[place + 2 : place + 2 + ndim], header[place + 2 + ndim : place + 2 + 2 * ndim]
        size = math.prod(sizes) * dtype.itemsize
        part = frame[begin : begin + size].view(dtype).view([sizes[d] for d in order])
        tensors.append(part.permute([order.index(d) for d in range(ndim)]))
        begin, place = _aligned(begin + size), place + 2 + 2 * ndim
    return tensors, header[2]


def _aligned(size: int) -> int:
    return size + -size % _ALIGNED


class Channel:
    """Sends messages to one process, or receives them from one, without waiting where it can.

    Every frame has the size of the one before, so that the receiver can ask for it before it is sent. A frame of
    another size follows a frame of the old size that announces it. On a GPU, frames arrive on a stream of their own,
    while the units compute on another.

    Args:
        peer: Rank of the other process.
        group: Process group for messages alone, over both processes.
        device: Device of the messages.
        explain: Called if the connection breaks.

    Attributes:
        bytes: Number of bytes that were sent.
    """

    def __init__(self, peer: int, group: Any, device: torch.device, explain: Explain) -> None:
        self.peer, self.group, self.device, self._explain = peer, group, device, explain
        self.bytes = 0
        self._size = _ALIGNED
        self._sent: deque[tuple[Any, Tensor]] = deque()
        self._asked: tuple[Any, Tensor] | None = None
        self._stream: Any = (
            torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]  # torch's own
        )

    def send(self, tensors: Sequence[Tensor], flag: int = 0) -> None:
        """Send a message; wait only if the receiver is several messages behind."""
        frame = pack(tensors, flag, self.device)
        if len(frame) != self._size:
            news = torch.zeros(self._size, dtype=torch.uint8, device=self.device)
            news[:8].view(torch.int64).fill_(len(frame))
            self._send(news)
            self._size = len(frame)
        self._send(frame)

    def _send(self, frame: Tensor) -> None:
        with connected(self._explain):
            while len(self._sent) >= _AHEAD:
                self._sent.popleft()[0].wait()
            self._sent.append((dist.isend(frame, self.peer, group=self.group), frame))
        self.bytes += len(frame)

    def ask(self) -> None:
        """Ask for the next frame, so that it arrives while this process computes."""
        if self._asked is None:
            with self._beside_compute(), connected(self._explain):
                frame = torch.empty(self._size, dtype=torch.uint8, device=self.device)
                self._asked = (dist.irecv(frame, self.peer, group=self.group), frame)

    def receive(self, last: bool = False) -> tuple[list[Tensor], int]:
        """Return the tensors and the flag of the next message, and ask for the one after it unless it is the last."""
        frame, header = self._frame()
        if header[0] != len(frame):
            self._size = header[0]
            frame, header = self._frame()
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
            frame.record_stream(torch.cuda.current_stream(self.device))
        if not last:
            self.ask()
        return unpack(frame, header)

    def _frame(self) -> tuple[Tensor, list[int]]:
        """Return the frame that arrives next, and the numbers at its beginning."""
        self.ask()
        assert self._asked is not None
        (work, frame), self._asked = self._asked, None
        with self._beside_compute(), connected(self._explain):
            work.wait()
            length = int(frame[8:16].view(torch.int64))
            return frame, frame[: 8 * max(1, length)].view(torch.int64).tolist()

    def _beside_compute(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def end_sending(self) -> None:
        """Send the message that the receiver has asked for, and wait until it has taken all."""
        self.send([])
        with connected(self._explain):
            while self._sent:
                self._sent.popleft()[0].wait()

    def end_receiving(self) -> None:
        """Take the last message."""
        self.receive(last=True)
