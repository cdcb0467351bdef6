"""What tests of several processes share."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def torchrun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Start two connected processes on this machine and wait for them."""

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *launcher, *arguments],
            env=environment, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip

    return run
