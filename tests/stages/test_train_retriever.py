"""train-retriever: the encoder it leaves, its account, and that a broken run goes on."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, TrainerCallback

from ragkit.data.files import read_corpus, read_examples, read_json, read_jsonl, write_jsonl
from ragkit.errors import ConfigError, DataError, ModelError
from ragkit.models.encoder import Encoder
from ragkit.retrieval.negatives import Rules, remine
from ragkit.training import callbacks
from ragkit.training.contrastive import ContrastiveModel

TOPICS = ["fuse", "relay", "valve", "pump", "sensor", "battery", "cable", "display"]
COLOURS = ["red", "green", "blue", "light", "update", "log", "user", "power"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Questions that name a topic; its passage names a colour instead: to be learnt, not read."""
    folder = tmp_path / "data"
    corpus = [{"id": t, "text": f"{c} opens it."} for t, c in zip(TOPICS, COLOURS, strict=True)]
    write_jsonl(folder / "corpus.jsonl", corpus)
    for name, words in (("train", ("what", "when", "how")), ("dev", ("which",))):
        write_jsonl(
            folder / f"{name}.jsonl",
            (
                {
                    "id": f"{name}-{t}-{w}",
                    "question": f"{w} does the {t} do",
                    "positive_ids": [t],
                    **({"negative_ids": [n for n in TOPICS if n != t][:3]} if w != "how" else {}),
                }
                for w in words
                for t in TOPICS
            ),
        )
    return folder


@pytest.fixture
def values(data: Path, tmp_path: Path, tiny_encoder: Path) -> dict[str, Any]:
    loop = {"epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32"}
    return {
        "examples": str(data / "train.jsonl"),
        "model": str(tiny_encoder),
        "loop": loop,
        "output": str(tmp_path / "run"),
    }


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path / "model" / "model.safetensors")


def test_training_leaves_an_encoder_that_knows_what_it_was_taught(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    values["loop"]["epochs"] = 15
    path = stage("train-retriever", **values)
    metrics = read_json(path / "metrics.json")
    before, best = (metrics["metrics"][f"dev_ndcg@10{end}"]["mean"] for end in ("_before", ""))
    assert best > before + 0.2
    assert metrics["steps"] == 15 * 3
    assert 0 < metrics["best_step"] <= metrics["steps"]
    assert metrics["timings"]["training_s"] > 0
    history = read_jsonl(path / "history.jsonl")
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) > 5 and losses[-1] < losses[0]
    # the evaluation of the encoder that was kept gives the number that was written
    examples = str(Path(values["examples"]).parent / "dev.jsonl")
    evaluated = stage(
        "eval-retriever",
        examples=examples,
        retriever={"type": "dense", "model": str(path), "encoder": {"precision": "fp32"}},
        output=f"{path}-eval",
        accept_leaks=True,  # the toy's dev questions are near its training questions
    )
    found = read_json(evaluated / "metrics.json")["metrics"]["ndcg@10"]["mean"]
    assert found == pytest.approx(best, abs=0.02)


def test_the_model_is_loaded_by_transformers_and_by_the_next_command(
    stage: Callable[..., Path], values: dict[str, Any], tiny_encoder: Path
) -> None:
    path = stage("train-retriever", **values)
    loaded = AutoModel.from_pretrained(path / "model")
    trained = Encoder.load(str(path))
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(loaded.state_dict()[name], trained.model.state_dict()[name])
    begun = Encoder.load(str(tiny_encoder)).model.state_dict()[name]
    assert not torch.equal(loaded.state_dict()[name], begun)


def test_without_dev_examples_the_last_step_is_kept_and_that_is_said(
    stage: Callable[..., Path], values: dict[str, Any], data: Path, log_lines: list[str]
) -> None:
    (data / "dev.jsonl").unlink()
    path = stage("train-retriever", **values)
    assert any("no dev examples: the last checkpoint is kept" in line for line in log_lines)
    metrics = read_json(path / "metrics.json")
    assert (metrics["best_step"], metrics["steps"]) == (None, 9)
    assert (path / "model" / "config.json").exists()


def test_the_same_seed_trains_the_same_encoder_and_another_seed_another(
    stage: Callable[..., Path], values: dict[str, Any], tmp_path: Path
) -> None:
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = stage("train-retriever", **{**values, "output": str(tmp_path / name)}, seed=seed)
        found.append(weights(path)["embeddings.word_embeddings.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


class _Break(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt


def test_a_run_that_broke_ends_with_the_weights_of_one_that_did_not(
    stage: Callable[..., Path],
    values: dict[str, Any],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log_lines: list[str],
) -> None:
    (data / "dev.jsonl").unlink()  # the last step's weights, whatever the dev set says
    whole = stage("train-retriever", **values)
    values["output"] = str(tmp_path / "broken")
    original = callbacks.Progress.on_train_begin

    def on_train_begin(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        original(self, args, state, control, **more)
        self.on_step_begin = lambda args, state, control, **_: _Break().on_step_begin(
            args, state, control
        )

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Progress, "on_train_begin", on_train_begin)
        with pytest.raises(KeyboardInterrupt):
            stage("train-retriever", **values)
    assert not (tmp_path / "broken" / "model").exists()
    assert read_json(tmp_path / "broken" / "run.json")["status"] == "failed"
    again = stage("train-retriever", **values)
    assert any("going on from" in line and "checkpoint-6" in line for line in log_lines)
    ours, theirs = weights(again), weights(whole)
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_adapters_are_kept_and_merged_into_the_model(
    stage: Callable[..., Path], values: dict[str, Any], tiny_encoder: Path
) -> None:
    values["loop"] |= {"learning_rate": 3e-2, "epochs": 8}
    path = stage("train-retriever", **values, lora={"r": 4, "alpha": 8})
    metrics = read_json(path / "metrics.json")["metrics"]
    before, best = (metrics[f"dev_ndcg@10{end}"]["mean"] for end in ("_before", ""))
    assert best > before + 0.05
    checkpoint = next((path / "checkpoints").glob("*/model.safetensors"))
    assert all("lora_" in name for name in load_file(checkpoint))
    assert read_json(path / "adapter" / "adapter_config.json")["r"] == 4
    merged, begun = weights(path), load_file(tiny_encoder / "model.safetensors")
    changed = {name for name in begun if not torch.allclose(merged[name], begun[name])}
    assert changed and all(name.endswith(".weight") and "layer." in name for name in changed)
    assert not any("LayerNorm" in name for name in changed)


def test_dropout_of_the_adapters_is_their_own_and_not_the_loops(
    stage: Callable[..., Path], values: dict[str, Any], tmp_path: Path
) -> None:
    values["loop"] |= {"epochs": 1, "dropout": 0.0}
    found = []
    for name, dropout in (("without", 0.0), ("with", 0.5)):
        values["output"] = str(tmp_path / name)
        path = stage("train-retriever", **values, lora={"r": 4, "dropout": dropout})
        found.append(load_file(path / "adapter" / "adapter_model.safetensors"))
    assert any(not torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_separate_towers_part_in_training_and_are_evaluated_as_two(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    values["loop"]["epochs"] = 15
    path = stage("train-retriever", **values, towers="separate")
    towers = [
        load_file(path / "model" / f"{route}_0_Transformer" / "model.safetensors")
        for route in ("query", "document")
    ]
    name = "embeddings.word_embeddings.weight"
    assert not torch.equal(towers[0][name], towers[1][name])
    metrics = read_json(path / "metrics.json")["metrics"]
    before, best = (metrics[f"dev_ndcg@10{end}"]["mean"] for end in ("_before", ""))
    assert best > before + 0.2
    dev = str(Path(values["examples"]).parent / "dev.jsonl")
    evaluated = stage(
        "eval-retriever",
        examples=dev,
        retriever={"type": "dense", "model": str(path), "encoder": {"precision": "fp32"}},
        output=f"{path}-eval",
        accept_leaks=True,
    )
    found = read_json(evaluated / "metrics.json")["metrics"]["ndcg@10"]["mean"]
    assert found == pytest.approx(best, abs=0.02)


def test_a_model_of_two_towers_keeps_them_and_its_own_weights_go_on(
    stage: Callable[..., Path], values: dict[str, Any], tiny_encoder: Path
) -> None:
    options = {"passage_model": str(tiny_encoder), "pooling": "cls", "normalize": False}
    values["loss"] = {"temperature": 1.0}
    path = stage("train-retriever", **values, encoder=options)
    values |= {"model": str(path), "output": f"{path}-again"}
    again = Encoder.load(str(stage("train-retriever", **values)))
    assert again.passage_tower is not None
    assert (again.settings.pooling, again.settings.normalize) == ("cls", False)


@pytest.mark.parametrize("change", [{"lora": {"r": 4}}, {"towers": "separate"}])
def test_a_run_of_adapters_or_towers_that_broke_goes_on_as_if_it_had_not(
    change: dict[str, Any],
    stage: Callable[..., Path],
    values: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values |= {**change, "output": str(tmp_path / "whole")}
    whole = Encoder.load(str(stage("train-retriever", **values)))
    values["output"] = str(tmp_path / "broken")
    original = callbacks.Progress.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        original(self, args, state, control, **more)
        if state.global_step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Progress, "on_step_end", on_step_end)
        with pytest.raises(KeyboardInterrupt):
            stage("train-retriever", **values)
    again = Encoder.load(str(stage("train-retriever", **values)))
    ours, theirs = again.state_dict(), whole.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-6), name


def test_negatives_are_mined_again_by_the_weights_of_each_epoch(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    (data / "dev.jsonl").unlink()
    path = stage("train-retriever", **values, remine={"n": 2, "depth": 8, "max_share": None})
    assert {p.name for p in path.glob("negatives-*")} == {
        "negatives-epoch-1.jsonl",
        "negatives-epoch-2.jsonl",
    }
    corpus = read_corpus(data / "corpus.jsonl")
    examples = read_examples(data / "train.jsonl", corpus)
    encoder = Encoder.load(values["model"])
    # of the last two checkpoints, which are kept, the first ends the second epoch
    trained = load_file(path / "checkpoints" / "checkpoint-6" / "model.safetensors")
    encoder.load_state_dict({k.removeprefix("encoder."): v for k, v in trained.items()})
    rules = Rules(n=2, depth=8, max_share=None)
    expected = [list(e.negative_ids) for e in remine(encoder, examples, corpus, rules).examples]
    found = read_jsonl(path / "negatives-epoch-2.jsonl")
    assert [r["negative_ids"] for r in found] == expected
    assert found != read_jsonl(path / "negatives-epoch-1.jsonl")
    without = stage("train-retriever", **{**values, "output": f"{path}-without"})
    name = "embeddings.word_embeddings.weight"
    assert not torch.equal(weights(path)[name], weights(without)[name])


@pytest.mark.parametrize("broken_at", [4, 6, 7])
def test_a_broken_run_that_mines_again_ends_with_the_weights_of_a_whole_one(
    stage: Callable[..., Path],
    values: dict[str, Any],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken_at: int,
) -> None:
    (data / "dev.jsonl").unlink()
    values |= {"remine": {"n": 2, "depth": 8, "max_share": None}}
    values["loop"]["evaluate_every"] = 2  # checkpoints within epochs
    whole = stage("train-retriever", **values)
    values["output"] = str(tmp_path / "broken")
    original = callbacks.Progress.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        original(self, args, state, control, **more)
        if state.global_step == broken_at + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Progress, "on_step_end", on_step_end)
        with pytest.raises(KeyboardInterrupt):
            stage("train-retriever", **values)
    again = stage("train-retriever", **values)
    ours, theirs = weights(again), weights(whole)
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-6), name
    for epoch in (1, 2):
        file = f"negatives-epoch-{epoch}.jsonl"
        assert read_jsonl(again / file) == read_jsonl(whole / file)


def test_examples_without_passages_train_nothing(
    stage: Callable[..., Path], values: dict[str, Any], data: Path
) -> None:
    write_jsonl(data / "train.jsonl", [{"id": "a", "question": "who", "answers": ["me"]}])
    with pytest.raises(DataError, match="no training example has a passage that answers it"):
        stage("train-retriever", **values)


def test_a_sample_of_the_corpus_chooses_the_checkpoint_where_asked_and_that_is_said(
    stage: Callable[..., Path], values: dict[str, Any], tmp_path: Path, log_lines: list[str]
) -> None:
    found = []
    for name, size in (("full", "full"), ("sample", 3)):
        dev = str(tmp_path / "data" / "few.jsonl")
        write_jsonl(Path(dev), [{"id": "d", "question": "fuse", "positive_ids": ["fuse"]}])
        path = stage(
            "train-retriever",
            **{**values, "output": str(tmp_path / name)}, dev=dev, dev_corpus=size, metric="mrr@10",
        )  # fmt: skip
        found.append(read_json(path / "metrics.json")["metrics"]["dev_mrr@10_before"]["mean"])
    said = "the best checkpoint is chosen by mrr@10 of 1 dev questions over"
    assert f"{said} all 8 passages" in log_lines
    assert f"{said} a sample of 3 passages" in log_lines
    assert found[1] >= max(found[0], 1 / 3)  # fewer passages to be mistaken for the right one


def test_an_unknown_dev_metric_is_refused_with_the_configuration(
    stage: Callable[..., Path], values: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"metric: .*unknown metric 'ndgc@10'.*ndcg@"):
        stage("train-retriever", **values, metric="ndgc@10")


def test_a_loss_that_is_lost_reaches_the_user_and_leaves_the_run_to_be_gone_on_with(
    stage: Callable[..., Path], values: dict[str, Any], tmp_path: Path
) -> None:
    whole = stage("train-retriever", **values)
    values["output"] = str(tmp_path / "lost")
    inner, calls = ContrastiveModel.forward, []

    def forward(self: ContrastiveModel, **batch: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:
            batch["token_ids"] = [[]] * len(batch["token_ids"])
            self.encoder.forward = lambda ids, n: torch.full(  # type: ignore[method-assign]
                (len(ids), self.encoder.dimensions), torch.nan, requires_grad=True
            )
        return inner(self, **batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContrastiveModel, "forward", forward)
        with pytest.raises(ModelError, match=r"the loss is nan .*bad-batch.json.*learning rate"):
            stage("train-retriever", **values)
    record = read_json(tmp_path / "lost" / "run.json")
    assert record["status"] == "failed" and "the loss is nan" in record["error"]
    assert len(read_json(tmp_path / "lost" / "bad-batch.json")["example_ids"]) == 8
    again = stage("train-retriever", **values)
    assert torch.equal(
        weights(again)["embeddings.word_embeddings.weight"],
        weights(whole)["embeddings.word_embeddings.weight"],
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"remine": {}, "loss": {"guide": {"model": "embedded"}}}, "remine, loss.guide: one of"),
        ({"remine": {}, "loss": {"distillation": {}}}, "remine, loss.distillation: one of"),
        ({"remine": {}, "loss": {"n_negatives": 0}}, "remine: mines for nothing"),
        ({"encoder": {"device": "cpu"}}, "encoder.device: training says it by loop.device"),
        (
            {"loss": {"distillation": {}, "hard_neg_ratio": 0.1}},
            "hard_neg_ratio, distillation: one of them",
        ),
        ({"lora": {"target_modules": []}}, "lora.target_modules"),
        (
            {"lora": {"quantize": "4bit"}, "loop": {"deepspeed": "configs/deepspeed/zero2.json"}},
            "lora.quantize: goes with neither",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, Any],
    said: str,
    stage: Callable[..., Path],
    values: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(ConfigError, match=said):
        stage("train-retriever", **{**values, **settings})


def test_examples_do_not_choose_their_own_checkpoint(
    stage: Callable[..., Path], values: dict[str, Any], tmp_path: Path, log_lines: list[str]
) -> None:
    folder = tmp_path / "alone"
    shutil.copytree(Path(values["examples"]).parent, folder)
    os.replace(folder / "train.jsonl", folder / "dev.jsonl")
    stage("train-retriever", **{**values, "examples": str(folder / "dev.jsonl")})
    assert any(line.startswith("no dev examples") for line in log_lines)
