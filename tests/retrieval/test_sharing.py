"""Arrays filled by several ranks: who does what, what is kept, and two real processes."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragkit.config.blocks import EncoderOptions
from ragkit.data.files import write_json, write_jsonl
from ragkit.errors import RunError
from ragkit.models.encoder import Encoder
from ragkit.retrieval.encode import encode
from ragkit.retrieval.index import VectorIndex
from ragkit.retrieval.sharing import PartialArray, forget_progress, gaps, pieces, share, together

TEXTS = [" ".join(["fuse", "relay", "valve"][i % 3 :] * (1 + 5 * i % 7)) for i in range(23)]
RANK = """
import sys
from pathlib import Path
from torch import distributed as dist
from ragkit.config.blocks import EncoderOptions
from ragkit.data.schema import Passage
from ragkit.models.encoder import Encoder
from ragkit.retrieval import encode as module
from ragkit.retrieval.index import build_index

model, folder, started, texts = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:]
if started == "initialised":
    dist.init_process_group("gloo")
module._SHARD = 5
corpus = {str(i): Passage(str(i), text) for i, text in enumerate(texts)}
encoded = 0
class Counting(Encoder):
    def forward(self, token_ids, n_queries=None):
        global encoded
        encoded += len(token_ids)
        return super().forward(token_ids, n_queries)
encoder = Counting.load(model)
options = EncoderOptions(precision="fp32", device="cpu")
index = build_index(encoder, corpus, "tiny", options, folder, shared=True)
assert index.vectors.shape == (len(texts), 32), index.vectors.shape
print(encoded)
if started == "initialised":
    assert dist.is_initialized()
    dist.destroy_process_group()
else:
    assert not dist.is_initialized()
"""


def test_gaps_are_what_nobody_did() -> None:
    assert gaps([(6, 8), (0, 2), (1, 4)], 10) == [(4, 6), (8, 10)]
    assert gaps([], 3) == [(0, 3)]
    assert gaps([(0, 3)], 3) == gaps([], 0) == []


def test_a_share_follows_the_share_before_it() -> None:
    spans = [(0, 3), (10, 14)]
    assert [share(spans, rank, 3) for rank in range(3)] == [
        [(0, 2)],
        [(2, 3), (10, 11)],
        [(11, 14)],
    ]


def test_pieces_are_no_longer_than_they_may_be() -> None:
    assert list(pieces([(0, 5), (7, 9)], 2)) == [(0, 2), (2, 4), (4, 5), (7, 9)]


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)).map(lambda s: (s[0], sum(s))))


@given(SPANS, st.integers(49, 60), st.integers(1, 5), st.integers(1, 7))
def test_the_ranks_together_do_each_missing_row_once(
    done: list[tuple[int, int]], total: int, size: int, most: int
) -> None:
    todo = gaps(done, total)
    parts = [list(pieces(share(todo, rank, size), most)) for rank in range(size)]
    rows = [row for part in parts for span in part for row in range(*span)]
    assert rows == [row for row in range(total) if not any(a <= row < b for a, b in done)]
    counts = [sum(b - a for a, b in part) for part in parts]
    assert max(counts) - min(counts) <= 1


def test_what_several_ranks_did_is_found_by_one(tmp_path: Path) -> None:
    out, shape = tmp_path / "rows.npy", (10, 2)
    assert PartialArray(out, shape, "a").begin() == []
    for rank, span in enumerate([(0, 2), (4, 7)]):
        array = PartialArray(out, shape, "a", rank)
        array.write(span, np.full((span[1] - span[0], 2), rank + 1, np.float32))
        array.note([span])
    array = PartialArray(out, shape, "a")
    assert sorted(array.begin()) == [(0, 2), (4, 7)]
    assert sorted(array.begin()) == [(0, 2), (4, 7)]  # from the one account that is left
    assert [p.name for p in tmp_path.glob("*.json")] == ["rows.progress.json"]
    rows = np.load(array.partial)
    assert rows[:, 0].tolist() == [1, 1, 0, 0, 2, 2, 2, 0, 0, 0]


def test_accounts_of_something_else_are_not_believed(tmp_path: Path) -> None:
    out = tmp_path / "rows.npy"
    for rank, made_from in enumerate(["a", "b"]):
        PartialArray(out, (4, 2), made_from, rank).note([(rank, rank + 1)])
    assert PartialArray(out, (4, 2), "a").begin() == []  # there is an account, but no file
    assert not list(tmp_path.glob("*.json"))
    PartialArray(out, (4, 2), "b").note([(0, 1)])
    assert PartialArray(out, (4, 2), "a").begin() == []


def launch(model: Path, folder: Path, texts: list[str], size: int, started: str) -> list[int]:
    """Run the ranks of a launch; return how many texts each encoded."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {
        **os.environ, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(model), str(folder), started, *texts],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    said = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * size
    return [int(text) for text in said]


@pytest.mark.parametrize("started", ["initialised", "not initialised"])
def test_two_ranks_make_the_index_that_one_process_makes(
    started: str, tiny_encoder: Path, tmp_path: Path
) -> None:
    encoder = Encoder.load(str(tiny_encoder))
    options = EncoderOptions(precision="fp32", device="cpu")
    expected = encode(encoder, TEXTS, "passage", options)
    assert launch(tiny_encoder, tmp_path, TEXTS, 2, started) == [11, 12]
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), expected, rtol=0, atol=1e-6)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"embeddings.npy", "ids.txt", "manifest.json"}


def test_two_ranks_go_on_where_one_process_was(tiny_encoder: Path, tmp_path: Path) -> None:
    out, shape = tmp_path / "embeddings.npy", (len(TEXTS), 32)
    encoder = Encoder.load(str(tiny_encoder))
    options = EncoderOptions(precision="fp32", device="cpu")
    expected = encode(encoder, TEXTS, "passage", options, out)
    account = (tmp_path / "embeddings.progress.json").read_text()
    partial = PartialArray(out, shape, "").partial
    out.rename(partial)
    np.lib.format.open_memmap(partial, "r+")[7:] = np.nan
    made_from = json.loads(account)["made_from"]
    write_json(tmp_path / "embeddings.progress.json", {"made_from": made_from, "done": [(0, 7)]})
    assert launch(tiny_encoder, tmp_path, TEXTS, 2, "not initialised") == [8, 8]
    np.testing.assert_allclose(np.load(out), expected, rtol=0, atol=1e-6)


def test_a_process_that_encodes_alone_does_not_wait_for_the_others(
    tiny_encoder: Path, tmp_path: Path, as_first_rank: Callable[[int, int], None]
) -> None:
    as_first_rank(2, 2)
    options = EncoderOptions(precision="fp32", device="cpu")
    encoder = Encoder.load(str(tiny_encoder))
    rows = encode(encoder, TEXTS, "passage", options, tmp_path / "rows.npy")
    np.testing.assert_array_equal(rows, encode(encoder, TEXTS, "passage", options))


def test_torchrun_shares_out_the_index_command(tiny_encoder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", [{"id": f"{i}", "text": t} for i, t in enumerate(TEXTS)])
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "ragkit", "index", "corpus.jsonl", "-m", str(tiny_encoder), "-o", "index"]
    done = subprocess.run(
        [sys.executable, *launcher, *command],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    options = EncoderOptions(precision="fp32", device="cpu")
    expected = encode(Encoder.load(str(tiny_encoder)), TEXTS, "passage", options)
    index = VectorIndex.load(tmp_path / "index")
    np.testing.assert_allclose(index.vectors, expected, rtol=0, atol=1e-6)
    assert json.loads((tmp_path / "index" / "run.json").read_text())["processes"] == 2
    assert not list((tmp_path / "index").glob("*.progress*"))


def test_ranks_on_several_machines_are_refused(
    as_first_rank: Callable[[int, int], None],
) -> None:
    as_first_rank(4, 2)
    with pytest.raises(RunError, match="not by 4 on several"), together():
        pass


def test_progress_is_forgotten_for_every_rank(tmp_path: Path) -> None:
    out = tmp_path / "rows.npy"
    for rank in range(3):
        PartialArray(out, (4, 2), "a", rank).note([])
    write_json(tmp_path / "rows2.progress.json", {})
    forget_progress(out)
    assert [p.name for p in tmp_path.iterdir()] == ["rows2.progress.json"]


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunError, match="no room for its 208 bytes: No space left"):
        PartialArray(tmp_path / "rows.npy", (10, 2), "a").begin()
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert PartialArray(tmp_path / "rows.npy", (10, 2), "a").begin() == []
    file = tmp_path / "rows.partial.npy"
    assert file.stat().st_blocks * 512 >= file.stat().st_size
