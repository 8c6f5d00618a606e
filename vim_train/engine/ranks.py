"""The processes of a run: which of them this one is, and what they tell each other.

A launcher names them through the environment, as torchrun does. Numbers on the CPU and objects go through gloo,
gradients on a GPU through NCCL. Whatever a method returns is the same in all ranks.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from vim_train.config.errors import LostRankError, QuietExit, UserError
from vim_train.config.schema import Device, GradCompression
from vim_train.engine.setup import choose_device
from vim_train.engine.watchdog import Heart

LIMIT = timedelta(minutes=10)
"""How long a rank waits for the others, at least, before it takes them for lost."""
_BEYOND = timedelta(minutes=1)
"""How much longer than for a hang, which the watchdog can name."""

_LOST = "another rank has ended or does not answer"
_PR_SET_PDEATHSIG = 1

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. Alone, it has nothing to exchange."""

    device: torch.device
    rank: int = 0
    world: int = 1
    heart: Heart = field(default_factory=Heart, compare=False)

    @property
    def first(self) -> bool:
        """Whether it is the one that speaks and writes."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean over ranks of a tensor on the compute device, in place."""
        if self.world > 1:
            self._exchange(lambda: dist.all_reduce(value))
            value /= self.world
        return value

    def largest(self, number: int) -> int:
        """The largest of everyone's numbers."""
        if self.world == 1:
            self.heart.exchange()
            return number
        tensor = torch.tensor(number)
        self._exchange(lambda: dist.all_reduce(tensor, dist.ReduceOp.MAX))
        return int(tensor)

    def gather(self, value: T) -> list[T]:
        """Everyone's, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        self._exchange(lambda: dist.all_gather_object(values, value))
        return values

    def collect(self, value: T) -> list[T] | None:
        """Everyone's, by rank, in rank 0; None in the others, which need not hold them."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.first else None
        self._exchange(lambda: dist.gather_object(value, values))
        return values

    def once(self, work: Callable[[], T]) -> T:
        """What `work` returns in rank 0, where alone it runs; if it raises, the others raise LostRankError in time."""
        if self.world == 1:
            return work()
        told: list[Any] = [work() if self.first else None]
        self._exchange(lambda: dist.broadcast_object_list(told))
        result: T = told[0]
        return result

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns here; where the user's mistake ends it in any rank, all leave and one of them says why.

        Raises:
            UserError: in the first of the ranks where it was raised.
            QuietExit: in the others.
        """
        if self.world == 1:
            return work()
        result: T | None = None
        error: UserError | None = None
        try:
            result = work()
        except UserError as raised:
            error = raised
        failed = [rank for rank, text in enumerate(self.gather(error and str(error))) if text is not None]
        if not failed:
            return cast(T, result)
        if error is not None and failed[0] == self.rank:
            raise error
        raise QuietExit

    def _exchange(self, work: Callable[[], Any]) -> None:
        self.heart.exchange()
        try:
            work()
        except RuntimeError as error:
            self.heart.hold()
            raise LostRankError(_LOST) from error

    def wrap(self, model: nn.Module, compression: GradCompression) -> nn.Module:
        """`model`, whose gradients a backward pass averages over ranks."""
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        parallel = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, static_graph=True)
        if compression is GradCompression.bf16:
            parallel.register_comm_hook(None, bf16_compress_hook)
        return parallel

    @staticmethod
    def unshared(model: nn.Module, wanted: bool) -> AbstractContextManager[None]:
        """Leaves gradients to the rank, if `wanted`: a later backward pass averages their sums."""
        return model.no_sync() if wanted and isinstance(model, DistributedDataParallel) else nullcontext()


@contextmanager
def join_ranks(wanted: Device, hang_timeout_s: float | None = None) -> Iterator[Ranks]:
    """This process's place, as the launcher has it; alone where there is none. `hang_timeout_s` as the watchdog's.

    Raises:
        UserError: more processes on this machine than GPUs, or a launcher's environment that is not whole.
        LostRankError: the others do not come.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield Ranks(choose_device(wanted))
        return
    rank, local = _number("RANK"), _number("LOCAL_RANK")
    _end_with_the_launcher()
    device = choose_device(wanted, local)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    ranks = Ranks(device, rank, world)
    limit = max(LIMIT, timedelta(seconds=hang_timeout_s or 0) + _BEYOND)
    try:
        dist.init_process_group(backend, rank=rank, world_size=world, timeout=limit)
    except RuntimeError as error:
        raise LostRankError(_LOST) from error
    try:
        yield ranks
    except RuntimeError as error:
        if _lost(error):
            ranks.heart.hold()
            raise LostRankError(_LOST) from error
        raise
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise UserError(f"{name}={text}: a launcher sets it to a whole number; start with gpus=N or torchrun")
    return int(text)


def _lost(error: RuntimeError) -> bool:
    """Whether an exchange of gradients failed, as far as can be told: gloo raises plain RuntimeErrors."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _end_with_the_launcher() -> None:
    """Have Linux stop this process when its parent ends, however it ends, also under nohup.

    The signal comes once for each thread of the parent; SIGHUP is one that may come again.
    """
    if sys.platform != "linux":
        return
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGHUP)
