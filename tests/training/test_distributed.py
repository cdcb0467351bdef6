"""Two processes that share a batch get the loss and the gradient of one that has all of it."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("ranks.py")
RANKS = runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def shares(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, case by case."""
    out = tmp_path_factory.mktemp("ranks")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(SCRIPT), str(tiny_encoder), str(out), rank, "2"],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [p.returncode for p in processes] == [0, 0], "\n".join(errors)
    return [torch.load(out / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", list(RANKS["CASES"]))
def test_two_processes_equal_one_with_the_whole_batch(
    case: str, shares: list[dict[str, Any]], tiny_encoder: Path
) -> None:
    loss, gradients = RANKS["result"](str(tiny_encoder), RANKS["CASES"][case], range(5))
    found = [share[case] for share in shares]
    assert sum(value for value, _ in found) / 2 == pytest.approx(loss, abs=1e-5)
    for name, expected in gradients.items():
        for _, theirs in found:
            torch.testing.assert_close(theirs[name], expected, rtol=1e-5, atol=1e-5, msg=name)
    assert {n for n, _ in gradients.items()} == set(found[0][1])


def test_the_cases_differ_and_have_gradients(tiny_encoder: Path) -> None:
    results = {name: RANKS["result"](str(tiny_encoder), c, range(5)) for name, c in
               RANKS["CASES"].items()}  # fmt: skip
    plain, cached = results["info_nce"], results["cached"]
    assert cached[0] == pytest.approx(plain[0], abs=1e-6)
    others = {round(value, 4) for name, (value, _) in results.items() if name != "cached"}
    assert len(others) == len(results) - 1
    for _, gradients in results.values():
        assert sum(g.square().sum() for g in gradients.values()) > 1e-2


def test_alone_each_process_has_its_own_loss(tiny_encoder: Path) -> None:
    # the shares' own losses are not what the whole batch's is: the exchange matters
    mine, theirs = (RANKS["result"](str(tiny_encoder), {}, s)[0] for s in RANKS["SHARES"])
    whole = RANKS["result"](str(tiny_encoder), {}, range(5))[0]
    assert abs((mine * 3 + theirs * 2) / 5 - whole) > 1e-2
