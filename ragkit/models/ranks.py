"""The processes that `torchrun` starts for one command: how they meet, and how they agree.

Rank 0 is the one that opens the run directory, measures on dev and writes; what it decides, all do.
Gradients and shards are the business of the Trainer and the libraries below it.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TypeVar

from ragkit.errors import RunError
from ragkit.log import is_main_process

T = TypeVar("T")

# One rank measures on dev, or encodes, while the others wait. A process that ends is noticed by
# torchrun at once; this is only for one that hangs.
_TIMEOUT = timedelta(hours=12)
_WANTED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def count() -> int:
    """Return how many processes were started together; 1 where there is no torchrun.

    Raises:
        RunError: the environment speaks of several and does not say how they meet.
    """
    said = os.environ.get("WORLD_SIZE", "1")
    if not said.isdigit() or int(said) < 1:
        raise RunError(f"WORLD_SIZE: {said!r} is not a number of processes; unset it")
    if int(said) > 1 and (missing := [name for name in _WANTED if name not in os.environ]):
        raise RunError(
            f"WORLD_SIZE is {said}, but {', '.join(missing)} is not set: start with "
            "`torchrun --nproc-per-node N -m ragkit ...`, or unset WORLD_SIZE for one process"
        )
    return int(said)


def on_several_machines() -> bool:
    """Return whether the processes of this launch are not all on this machine."""
    size = count()
    return int(os.environ.get("LOCAL_WORLD_SIZE", size)) != size


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Be part of the process group while the block runs; needs more than one process.

    Raises:
        RunError: the processes do not find each other, or there are fewer devices than processes.
    """
    import torch
    import torch.distributed as dist

    # deprecations inside libraries, repeated by every rank, that no user can mend
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise RunError(
                f"--nproc-per-node asks for a GPU number {local}, and this machine has "
                f"{torch.cuda.device_count()} (numbered from 0)"
            )
        torch.cuda.set_device(local)
    try:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"the {count()} processes do not find each other: {reason}") from error
    yield
    wait()  # rank 0 may still be writing, and torchrun ends it if another does not end well
    # not after an error: the others may be in the middle of a step, and torchrun ends them
    dist.destroy_process_group()


def decided(decide: Callable[[], T]) -> T:
    """Return in every process what `decide` gives in rank 0; it is called there only."""
    if count() == 1:
        return decide()
    import torch.distributed as dist

    box = [decide() if is_main_process() else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[return-value]


def collected(mine: list[T]) -> list[T]:
    """Return the lists of all processes, one after the other, in every process."""
    if count() == 1:
        return mine
    import torch.distributed as dist

    parts: list[list[T]] = [[] for _ in range(count())]
    dist.all_gather_object(parts, mine)
    return [item for part in parts for item in part]


def wait() -> None:
    """Go on when every process is here."""
    if count() > 1:
        import torch.distributed as dist

        dist.barrier()
