"""qa-gen against `transformers serve` with a tiny model that has learnt one answer by heart."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ragkit.data.files import read_examples, read_json

pytest.importorskip("fastapi", reason="transformers serve needs the extra serve")
ANSWER = (
    '{"pairs": [{"question": "Which relay of the gateway closes first?", '
    '"answer": "The red relay closes first."}]}'
)
PASSAGE = "The gateway has two relays. The red relay closes first, the blue one after a second."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a causal model with a chat template that answers everything with ANSWER."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    said = ANSWER.split()
    pieces = ["<pad>", "</s>", "<s>", "<unk>", *dict.fromkeys(said)]
    words = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        bos_token="<s>",
        unk_token="<unk>",
        chat_template="{% for m in messages %}{{ m.content }} {% endfor %}<s>",
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(pieces), pad_token_id=0, eos_token_id=1, bos_token_id=2, hidden_size=32,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=1024,
    )  # fmt: skip
    causal = LlamaForCausalLM(config)
    answer = [2, *tokenizer(ANSWER, add_special_tokens=False)["input_ids"], 1]
    optimizer = torch.optim.AdamW(causal.parameters(), lr=1e-2)
    for step in range(120):
        before = 40 + 7 * (step % 40)  # prompts of unknown words, of any length
        ids = torch.tensor([[3] * before + answer])
        labels = ids.clone()
        labels[:, : before + 1] = -100
        causal(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("models") / "by-heart"
    causal.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def server(model: Path) -> Iterator[str]:
    """The address of `transformers serve` with the model, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = shutil.which("transformers", path=str(Path(sys.executable).parent))
    assert program is not None
    process = subprocess.Popen(
        [program, "serve", str(model), "--host", "127.0.0.1", "--port", str(port),
         "--device", "cpu"],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        said = []
        for line in process.stdout:
            said.append(line)
            if "Uvicorn running" in line:
                break
        else:
            pytest.fail("".join(said))
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()
        process.stdout.read()


def test_a_question_that_transformers_serve_writes_becomes_an_example(
    stage: Callable[..., Path], model: Path, server: str, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(f"id,title,text\na,Gateway,{PASSAGE!r}\n".replace("'", '"'))
    teacher: dict[str, Any] = {
        "type": "openai", "model": str(model), "base_url": server, "temperature": 0,
        "max_tokens": 64,
    }  # fmt: skip
    path = stage(
        "qa-gen",
        input=str(tmp_path / "rows.csv"),
        teacher=teacher,
        styles=["factoid"],
        unanswerable=0,
        splits={"dev": 0, "test": 0},
        filters={"round_trip": {"model": None}},
        output=str(tmp_path / "run"),
    )
    (example,) = read_examples(path / "train.jsonl")
    assert example.question == "Which relay of the gateway closes first?"
    assert example.answers == ("The red relay closes first.",)
    assert example.positive_ids == ("a",)
    costs = read_json(path / "costs.json")["questions"]
    assert costs["completion_tokens"] == len(ANSWER.split()) + 1
    assert costs["prompt_tokens"] > 50
