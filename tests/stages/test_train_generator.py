"""`train-generator`, whole: what it writes, what it refuses, and that what it writes is used."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
)

from ragkit.config.answering import Answerer
from ragkit.config.generating import Passages
from ragkit.config.load import Source, build
from ragkit.data.files import read_json, read_jsonl, write_jsonl
from ragkit.data.schema import Example, Passage
from ragkit.errors import ConfigError, DataError, ModelError
from ragkit.models import products
from ragkit.models.pretrained import traits
from ragkit.rag.answerers import build_answerer
from ragkit.rag.prompting import Prompter
from ragkit.retrieval import rankings
from ragkit.stages.generator_data import Asked
from ragkit.stages.generator_text import TextTask
from ragkit.stages.train_generator import Config
from ragkit.training.given import Given

Values = dict[str, Any]
Stage = Callable[..., Path]

TOPICS = ["fuse", "relay", "valve", "pump", "sensor", "battery", "cable", "display"]
COLOURS = ["red", "green", "blue", "light", "update", "log", "user", "power"]
# instructions of no words keep the sequences short
PROMPT = {"system": "", "refusal": "it can not"}


@pytest.fixture(scope="session")
def tiny_t5(tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 with the tokens of the tiny decoder."""
    folder = tmp_path_factory.mktemp("models") / "tiny-t5"
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=464, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
        pad_token_id=0, eos_token_id=2,
    )  # fmt: skip
    config.decoder_start_token_id = 0
    T5ForConditionalGeneration(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_decoder).save_pretrained(folder)
    return folder


@pytest.fixture
def values(tmp_path: Path) -> Values:
    """A configuration of 16 answerable and 2 unanswerable examples about eight passages."""
    corpus = [
        {"id": t, "title": t, "text": f"the {t} opens {c} when it stops"}
        for t, c in zip(TOPICS, COLOURS, strict=True)
    ]
    examples = [
        {
            "id": f"{t}-{word}",
            "question": f"{word} {t} opens",
            "answers": [c],
            "positive_ids": [t],
        }
        for word in ("what", "which")
        for t, c in zip(TOPICS, COLOURS, strict=True)
    ]
    none = [
        {"id": f"none-{i}", "question": f"how many days {i}", "answerable": False} for i in "ab"
    ]
    write_jsonl(tmp_path / "corpus.jsonl", corpus)
    write_jsonl(tmp_path / "train.jsonl", [*examples, none[0]])
    write_jsonl(tmp_path / "dev.jsonl", [*examples[:3], none[1]])
    return {
        "examples": str(tmp_path / "train.jsonl"),
        "output": str(tmp_path / "run"),
        "max_length": 200,
        "max_answer_tokens": 12,
        "loop": {"epochs": 1, "batch_size": 4, "device": "cpu", "precision": "fp32"},
    }


@pytest.fixture
def sft(values: Values, tiny_decoder: Path) -> Values:
    return {**values, "method": "sft", "model": str(tiny_decoder), "prompt": PROMPT}


@pytest.fixture
def swr(sft: Values) -> Values:
    passages = {"k": 2, "retriever": {"type": "bm25"}}
    return {**sft, "method": "swr", "passages": passages}


def with_loop(values: Values, **loop: Any) -> Values:
    return {**values, "loop": {**values["loop"], **loop}}


def test_a_trained_decoder_is_a_plain_checkpoint_with_a_card(stage: Stage, sft: Values) -> None:
    run = stage("train-generator", **with_loop(sft, epochs=2))
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert len(AutoTokenizer.from_pretrained(run / "model")) == model.config.vocab_size
    card = read_json(run / "model" / "generator.json")
    assert (card["method"], card["max_length"], card["max_answer_tokens"]) == ("sft", 200, 12)
    assert card["prompt"]["refusal"] == "it can not"
    report = read_json(run / "metrics.json")
    assert report["steps"] == 10
    assert set(report["metrics"]) == {"dev_f1", "dev_f1_before"}
    entries = [e for e in read_jsonl(run / "history.jsonl") if "eval_f1" in e]
    assert [e["step"] for e in entries] == [0, 5, 10]
    assert {"eval_loss", "eval_em", "eval_rouge_l", "eval_refused"} <= set(entries[0])
    samples = read_jsonl(run / "samples.jsonl")
    assert [s["step"] for s in samples] == [0] * 3 + [5] * 3 + [10] * 3
    assert not (run / ".best").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["fid", "reader"])
def test_a_cpu_multiplies_in_the_precision_that_is_asked_for(
    method: str, precision: str, stage: Stage, values: Values, tiny_encoder: Path, tiny_t5: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Where bf16 is asked for, no kernel for fp32 may get in before autocast."""
    own, seen = products._multiply, set()

    def watched(x: torch.Tensor, *rest: torch.Tensor | None) -> torch.Tensor:
        seen.add(x.dtype)
        return own(x, *rest)

    monkeypatch.setattr(products, "_multiply", watched)
    asked: Values = {"method": method, "max_length": 64, "model": str(tiny_encoder)}
    if method == "fid":
        asked |= {"model": str(tiny_t5), "passages": {"retriever": {"type": "bm25"}}}
    stage("train-generator", **with_loop({**values, **asked}, precision=precision))
    assert (torch.float32 in seen) == (precision == "fp32")


def test_the_answerer_asks_as_the_model_was_trained(
    stage: Stage, sft: Values, tmp_path: Path
) -> None:
    """A decoder that has learned eight questions by heart answers them where it is used."""
    learned = {**sft, "selection": {"metric": "loss", "samples": 0}}
    run = stage("train-generator", **with_loop(learned, epochs=60, learning_rate=5e-3))
    evaluated = stage(
        "eval-e2e",
        examples=str(tmp_path / "dev.jsonl"),
        output=str(tmp_path / "eval"),
        passages="gold",
        train=[],
        answerer={"type": "hf", "model": str(run), "precision": "fp32"},
    )
    answers = {r["id"]: r["answer"] for r in read_jsonl(evaluated / "predictions.jsonl")}
    assert answers["fuse-what"] == "red" and answers["relay-what"] == "green"


@pytest.mark.parametrize(
    ("kind", "method"), [("decoder", "sft"), ("t5", "swr"), ("t5", "fid"), ("bert", "fid")]
)
def test_in_use_prompts_have_the_room_and_answers_the_ends_of_training(
    kind: str, method: str, stage: Stage, values: Values, tiny_decoder: Path, tiny_encoder: Path,
    encoder_decoder: Callable[[str], Any], tmp_path: Path,
) -> None:  # fmt: skip
    source, folder = tiny_decoder if kind == "decoder" else tiny_encoder, tmp_path / "start"
    model: Any = (
        AutoModelForCausalLM.from_pretrained(source) if kind == "decoder" else encoder_decoder(kind)
    )
    if kind != "bert":  # that says nothing of its own, nor does its tokenizer
        model.generation_config.eos_token_id = [model.config.eos_token_id, 9]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    given = {
        **values, "method": method, "model": str(folder), "max_length": None,
        "prompt": {"refusal": PROMPT["refusal"]} if method == "fid" else PROMPT,
        "passages": {} if method == "sft" else {"k": 2, "retriever": {"type": "bm25"}},
        "selection": {"metric": "loss", "samples": 0},
    }  # fmt: skip
    run = stage("train-generator", **given)
    task = TextTask(build(Config, Source(given)))
    answerer = {"type": "fid" if method == "fid" else "hf", "model": str(run)}
    used: Any = build_answerer(TypeAdapter(Answerer).validate_python(answerer))
    for name in (f.name for f in fields(Prompter) if f.name != "tokenizer"):
        assert getattr(used.prompter, name) == getattr(task.prompter, name), name
    assert used.prompter.tokenizer.get_vocab() == task.tokenizer.get_vocab()
    its = traits(used.generator.model, used.generator.tokenizer)
    assert replace(its, name="") == replace(task.traits, name="")
    assert set(its.ends) == {"decoder": {2, 9}, "t5": {3, 9}, "bert": {3}}[kind]


def test_retrieved_passages_are_searched_for_once_for_all_runs(
    stage: Stage, swr: Values, tmp_path: Path, log_lines: list[str]
) -> None:
    shared = {**swr, "passages": {**swr["passages"], "cache": str(tmp_path / "cache")}}
    stage("train-generator", **shared)
    assert any("is among the first 2 of 100.0% of 17 questions" in line for line in log_lines)
    log_lines.clear()
    raft = {**shared["passages"], "k": 2, "shuffle": False}
    stage("train-generator", **{**shared, "passages": raft, "output": str(tmp_path / "other")})
    assert sum("were searched before" in line for line in log_lines) == 2


def test_citations_are_learned_and_said_on_the_card(stage: Stage, swr: Values) -> None:
    run = stage("train-generator", **{**swr, "cite": True})
    assert read_json(run / "model" / "generator.json")["cite"] is True


@pytest.mark.parametrize("save", ["merged", "adapter"])
def test_adapters_are_merged_or_kept_apart(
    save: str, stage: Stage, sft: Values, tiny_decoder: Path
) -> None:
    run = stage("train-generator", **{**sft, "lora": {"r": 4}, "save": save})
    assert (run / "adapter" / "adapter_model.safetensors").exists()
    assert (run / "model" / "adapter_config.json").exists() == (save == "adapter")
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    ids = torch.tensor([[5, 6, 7]])
    base = AutoModelForCausalLM.from_pretrained(tiny_decoder)
    with torch.no_grad():
        assert not torch.allclose(model(ids).logits, base(ids).logits)


def test_merged_and_separate_adapters_say_the_same(
    stage: Stage, sft: Values, tmp_path: Path
) -> None:
    runs = [
        stage(
            "train-generator",
            **{**sft, "lora": {"r": 4}, "save": save, "output": str(tmp_path / save)},
        )
        for save in ("merged", "adapter")
    ]
    one, two = (AutoModelForCausalLM.from_pretrained(run / "model") for run in runs)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(one(ids).logits, two(ids).logits, rtol=0, atol=1e-5)


def test_adapters_answer_wherever_they_are_asked(
    stage: Stage, sft: Values, tmp_path: Path, tiny_decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_decoder.parent)
    lora = {**sft, "model": tiny_decoder.name, "lora": {"r": 4}}
    asked = {
        "examples": str(tmp_path / "dev.jsonl"), "passages": "gold", "train": [],
        "corpus": str(tmp_path / "corpus.jsonl"),
    }  # fmt: skip
    answers = []
    for save in ("adapter", "merged"):
        fast = with_loop(lora, learning_rate=5e-3, epochs=20)
        run = stage("train-generator", **{**fast, "save": save, "output": str(tmp_path / save)})
        monkeypatch.chdir(tmp_path)  # the base was named by a relative path
        answerer = {"type": "hf", "model": str(run), "precision": "fp32"}
        output = str(tmp_path / f"eval-{save}")
        evaluated = stage("eval-e2e", **asked, answerer=answerer, output=output)
        answers.append([r["answer"] for r in read_jsonl(evaluated / "predictions.jsonl")])
        monkeypatch.chdir(tiny_decoder.parent)
    assert answers[0] == answers[1] and any(answers[0])
    with pytest.raises(ConfigError, match="adapters without the model that they are for"):
        stage("train-generator", **{**sft, "model": str(tmp_path / "adapter"), "output": None})


def test_chats_and_other_examples_are_mixed_in(
    stage: Stage, sft: Values, tmp_path: Path, log_lines: list[str]
) -> None:
    write_jsonl(tmp_path / "chats.jsonl", [{"text": "<human>: which pump\n<bot>: the red one"}] * 3)
    other = tmp_path / "other"
    write_jsonl(other / "corpus.jsonl", [{"id": "x", "text": "the alarm is red"}])
    write_jsonl(
        other / "train.jsonl",
        [{"id": "q", "question": "what alarm", "answers": ["red"], "positive_ids": ["x"]}],
    )
    mixture = {str(tmp_path / "chats.jsonl"): 1, str(other / "train.jsonl"): 0.5}
    run = stage("train-generator", **{**sft, "weight": 2, "mixture": mixture})
    assert read_json(run / "metrics.json")["steps"] == 6  # of 17 + 3 + 1 items
    assert any("other/train.jsonl: 1 examples, 1 passages" in line for line in log_lines)
    assert (
        f"an epoch has 21 items: 12 (57.1%) from the 17 of {sft['examples']}, "
        f"3 (14.3%) from the 1 of {other / 'train.jsonl'}, "
        f"6 (28.6%) from the 3 of {tmp_path / 'chats.jsonl'}"
    ) in log_lines
    inputs = read_json(run / "run.json")["inputs"]
    assert {"examples", "corpus", "dev", "mixture.0.path", "mixture.1.path"} <= set(inputs)


def test_chats_of_one_name_are_all_learned(stage: Stage, sft: Values, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "which pump"}, {"role": "assistant", "content": "the red"}]
    chats = [{"id": "c", "messages": said}, {"messages": said}, {"id": "c", "messages": said}]
    write_jsonl(tmp_path / "chat.jsonl", [*chats, {"id": "2", "messages": said}])
    run = stage("train-generator", **{**sft, "mixture": {str(tmp_path / "chat.jsonl"): 1}})
    assert read_json(run / "metrics.json")["steps"] == 6  # of 17 + 4 items: 21 / 4


def test_examples_of_the_same_corpus_are_searched_in_what_was_read(
    stage: Stage, swr: Values, tmp_path: Path, log_lines: list[str], monkeypatch: Any
) -> None:
    built = []
    build = rankings.build_searcher
    monkeypatch.setattr(rankings, "build_searcher", lambda *given: built.append(1) or build(*given))
    write_jsonl(
        tmp_path / "more.jsonl",
        [{"id": "q", "question": "what fuse", "answers": ["red"], "positive_ids": ["fuse"]}],
    )
    stage("train-generator", **{**swr, "mixture": {str(tmp_path / "more.jsonl"): 1}})
    assert len(built) == 1


def test_a_passage_that_may_be_drawn_is_a_part_of_the_data() -> None:
    example = Example("q", "what", ("x",), ("a",))
    corpora = [{i: Passage(i, text) for i in "ab"} for text in ("one", "two")]
    corpora[1]["a"] = corpora[0]["a"]
    for ranked, differ in ((None, True), ({"q": ["a"]}, False)):
        made = [Given.of([example], corpus, Passages(), ranked, 0) for corpus in corpora]
        one, two = (Asked([example], given).fingerprint() for given in made)
        assert (one != two) == differ


def test_dev_questions_without_answers_choose_nothing(
    stage: Stage, sft: Values, tmp_path: Path, log_lines: list[str]
) -> None:
    write_jsonl(tmp_path / "dev.jsonl", [{"id": "d", "question": "what", "positive_ids": ["fuse"]}])
    run = stage("train-generator", **sft)
    assert read_json(run / "metrics.json")["best_step"] is None
    assert any("none of its questions has a reference answer" in line for line in log_lines)


def test_documents_are_continued_first(stage: Stage, sft: Values) -> None:
    plain = stage("train-generator", **sft)
    run = stage(
        "train-generator",
        **{**sft, "pretrain": {"epochs": 2}, "output": str(plain.parent / "pretrained")},
    )
    first = read_jsonl(run / "pretrain" / "history.jsonl")
    assert [e for e in first if "loss" in e] and (run / "pretrain" / ".best").exists()
    ours, theirs = (load_file(r / "model" / "model.safetensors") for r in (run, plain))
    assert any(not torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("method", ["sft", "swr", "fid"])
def test_an_encoder_decoder_learns_by_every_method(
    method: str, stage: Stage, values: Values, tiny_t5: Path
) -> None:
    passages = {} if method == "sft" else {"k": 2, "retriever": {"type": "bm25"}}
    run = stage(
        "train-generator",
        **{**values, "method": method, "model": str(tiny_t5), "passages": passages},
    )
    trained = AutoModelForSeq2SeqLM.from_pretrained(run / "model")
    before = AutoModelForSeq2SeqLM.from_pretrained(tiny_t5)
    assert set(trained.state_dict()) == set(before.state_dict())
    card = read_json(run / "model" / "generator.json")
    assert (card["method"], card["n_passages"]) == (method, None if method == "sft" else 2)


def test_a_reader_is_the_default(
    stage: Stage, values: Values, tiny_encoder: Path, log_lines: list[str]
) -> None:
    run = stage(
        "train-generator",
        **{
            **values, "max_length": 64, "model": str(tiny_encoder),
            "passages": {"gold": "forced", "k": 2, "retriever": {"type": "bm25"}},
        },
    )  # fmt: skip
    AutoModelForQuestionAnswering.from_pretrained(run / "model")
    card = read_json(run / "model" / "generator.json")
    assert (card["method"], card["max_length"], card["n_passages"]) == ("reader", 64, 2)
    assert isinstance(card["no_answer_margin"], float)  # dev has an unanswerable question
    assert any("of 17 questions 16 have a reference word for word" in line for line in log_lines)


def test_the_same_command_does_nothing_twice(stage: Stage, sft: Values) -> None:
    run = stage("train-generator", **sft)
    written = (run / "model" / "model.safetensors").stat().st_mtime_ns
    assert stage("train-generator", **sft) == run
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passages": {"k": 2}}, "k: nothing is retrieved with gold: only"),
        ({"passages": {"gold": "raft"}}, "passages.gold: raft: is method: swr"),
        ({"method": "swr", "passages": {"gold": "only"}}, "passages.gold: only: is method: sft"),
        ({"method": "swr", "passages": {"distractors": 2}}, "distractors: goes with gold: only"),
        ({"method": "reader", "cite": True}, "cite: does not go with method: reader"),
        ({"method": "fid", "mixture": {__file__: 1}}, "mixture: does not go with method: fid"),
        ({"method": "reader", "weight": 2}, "weight: does not go with method: reader"),
        ({"method": "reader", "loop": {"neftune_alpha": 5}}, "neftune_alpha: does not go with"),
        ({"method": "reader", "lora": {"quantize": "4bit"}}, "quantize: does not go with"),
        ({"method": "fid", "prompt": {"system": "x"}}, "no instructions are read"),
        ({"save": "adapter"}, "save: adapter: needs lora"),
        ({"passages": {"p_gold": 0.5}}, "p_gold: goes with gold: raft"),
        ({"mixture": {"nowhere.jsonl": 1}}, "nowhere.jsonl"),
    ],
)
def test_what_a_method_would_not_look_at_is_refused(
    changes: Values, message: str, stage: Stage, sft: Values
) -> None:
    with pytest.raises(ConfigError, match=message):
        stage("train-generator", **{**sft, **changes})


def test_lengths_that_cannot_be_are_refused(stage: Stage, sft: Values) -> None:
    with pytest.raises(ModelError, match="max_length: 600 is more than the 512 tokens"):
        stage("train-generator", **{**sft, "max_length": 600})
    with pytest.raises(ModelError, match="200 tokens .* no room for a prompt in max_length: 200"):
        stage("train-generator", **{**sft, "max_answer_tokens": 200, "output": None})


def test_models_of_another_kind_are_refused(
    stage: Stage, sft: Values, values: Values, tiny_encoder: Path, tiny_decoder: Path, tiny_t5: Path
) -> None:
    with pytest.raises(ModelError, match="no generator"):
        stage("train-generator", **{**sft, "model": str(tiny_encoder), "max_length": 100})
    bm25 = {"passages": {"retriever": {"type": "bm25"}}, "prompt": {}, "output": None}
    with pytest.raises(ModelError, match="has no encoder of its own"):
        stage("train-generator", **{**sft, "method": "fid", **bm25})
    with pytest.raises(ConfigError, match="chats and raw documents are learned by decoders"):
        stage("train-generator", **{**sft, "model": str(tiny_t5), "pretrain": {}, "output": None})


def test_answers_that_stand_nowhere_cannot_be_read(
    stage: Stage, values: Values, tiny_encoder: Path, tmp_path: Path
) -> None:
    write_jsonl(
        tmp_path / "odd.jsonl",
        [{"id": "q", "question": "what", "answers": ["seventy"], "positive_ids": ["fuse"]}],
    )
    with pytest.raises(DataError, match="no reference answer stands in its passages"):
        stage(
            "train-generator",
            **{
                **values, "examples": str(tmp_path / "odd.jsonl"), "model": str(tiny_encoder),
                "max_length": 64,
            },
        )  # fmt: skip


def test_a_retriever_of_another_corpus_is_named(
    stage: Stage, swr: Values, tiny_encoder: Path, tmp_path: Path, log_lines: list[str]
) -> None:
    other = tmp_path / "elsewhere"
    write_jsonl(
        other / "corpus.jsonl", [{"id": "x", "text": "an alarm"}, {"id": "y", "text": "it"}]
    )
    write_jsonl(
        other / "train.jsonl",
        [
            {"id": "1", "question": "what alarm", "positive_ids": ["x"]},
            {"id": "2", "question": "what", "positive_ids": ["y"]},
        ],
    )
    trained = stage(
        "train-retriever",
        examples=str(other / "train.jsonl"),
        model=str(tiny_encoder),
        output=str(tmp_path / "retriever"),
        loop={"epochs": 1, "batch_size": 2, "device": "cpu", "precision": "fp32"},
    )
    dense = {"type": "dense", "model": str(trained)}
    stage("train-generator", **{**swr, "passages": {"k": 2, "retriever": dense}})
    assert any("was trained on another corpus" in line for line in log_lines)


def test_a_weight_that_is_chosen_on_dev_is_refused(stage: Stage, swr: Values) -> None:
    fused = {"type": "fused", "method": "weighted"}
    with pytest.raises(ConfigError, match=r"passages\.retriever\.weight: auto is chosen on dev"):
        stage("train-generator", **{**swr, "passages": {"retriever": fused}})
