"""Training in several processes at once, started by torchrun; without it every function here does next to nothing.

Each process takes its share of every batch, and gradients are averaged: up to rounding that is what one process does.
Batch normalisation sees all of a batch on CUDA (SyncBatchNorm); on the CPU each process normalises its share by the
share's own statistics, and the first process's are the ones kept.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.config import ConfigError

T = TypeVar("T")


@contextmanager
def torchrun_processes() -> Iterator[None]:
    """Join the processes that torchrun started, a GPU for each where there is CUDA; only the first one prints.

    When one fails, torchrun ends the others: there is nothing to tidy up then.

    Raises:
        ConfigError: fewer GPUs than processes on this machine.
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if torch.cuda.is_available():
        gpu = int(os.environ["LOCAL_RANK"])
        if gpu >= torch.cuda.device_count():
            raise ConfigError(f"A process for each GPU: this machine has {torch.cuda.device_count()}.")
        torch.cuda.set_device(gpu)  # "cuda" is this one from here on
        dist.init_process_group("nccl", device_id=torch.device("cuda", gpu))
    else:
        dist.init_process_group("gloo")
    with ExitStack() as stack:
        if rank() > 0:
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield
    dist.destroy_process_group()


def rank() -> int:
    """0 for the process that writes, logs and shows progress."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def data_parallel(network: nn.Module, device: str) -> nn.Module:
    """The network with its own weights, whose gradients are the mean over all processes."""
    if num_processes() == 1:
        return network
    if device == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return DistributedDataParallel(network)


def share(batch: Tensor) -> Tensor:
    """This process's part of a batch (N, ...): N / processes of it, rounded up for the first ones."""
    return batch.tensor_split(num_processes())[rank()]


def mean_of_processes(value: Tensor) -> Tensor:
    if num_processes() > 1:
        dist.all_reduce(value)
    return value / num_processes()


def from_first(call: Callable[[], T]) -> T:
    """What `call` gives in the first process, which alone makes it."""
    if num_processes() == 1:
        return call()
    given = [call() if rank() == 0 else None]
    dist.broadcast_object_list(given)
    return given[0]  # type: ignore[return-value]


def wait_for_all() -> None:
    if num_processes() > 1:
        dist.barrier()
