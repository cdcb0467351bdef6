"""`ragkit convert`: whole conversions of plain folders and encoders, and what stops them."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertModel,
    DPRContextEncoder,
    DPRQuestionEncoder,
    LlamaConfig,
    LlamaForCausalLM,
)

from ragkit.checkpoints import proof, weights
from ragkit.config.load import build, merge, option
from ragkit.errors import ConfigError, ModelError, RagkitError, RunError
from ragkit.models.encoder import Encoder
from ragkit.models.layouts import EncoderSettings
from ragkit.stages.convert import Config, convert, inspect

Convert = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Convert:
    """Convert a checkpoint to `tmp_path / name`; return the account."""

    def convert_to(source: Path, to: str, name: str, **settings: Any) -> dict[str, Any]:
        values = {"source": str(source), "to": to, "output": str(tmp_path / name), **settings}
        config = build(Config, merge(option(k, v, f"--{k}") for k, v in values.items()))
        said = convert(config)
        account: dict[str, Any] = json.loads((tmp_path / name / "conversion.json").read_text())
        return account | {"said": said}

    return convert_to


@pytest.fixture
def two_towers(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A sentence-transformers folder of two towers with other weights, cls and no normalisation."""
    settings = EncoderSettings("cls", False, "ask: ", "read: ", max_length=100)
    query, passage = Encoder.load(str(tiny_encoder)), Encoder.load(str(tiny_encoder))
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in passage.model.parameters():
            weights += torch.randn_like(weights) / 10
    query.settings = passage.settings = settings
    query.with_passage_tower(passage).save(tmp_path / "towers")
    return tmp_path / "towers"


def states(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors in a folder's safetensors files."""
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_shards_and_precision_change_and_come_back_to_the_bit(
    tiny_decoder: Path, tmp_path: Path, run: Convert
) -> None:
    halved = run(tiny_decoder, "hf", "bf16", dtype="bf16", max_shard_size="20KB")
    shards = sorted((tmp_path / "bf16").glob("model-*-of-*.safetensors"))
    assert len(shards) > 2 and all(file.stat().st_size < 40_000 for file in shards)
    expected = {k: v.bfloat16() for k, v in states(tiny_decoder).items()}
    assert_same(states(tmp_path / "bf16"), expected)
    assert json.loads((tmp_path / "bf16" / "config.json").read_text())["dtype"] == "bfloat16"
    assert 0 < halved["outputs"]["largest_difference"] < 1
    again = run(tmp_path / "bf16", "hf", "fp32", dtype="fp32")
    assert_same(states(tmp_path / "fp32"), {k: v.float() for k, v in expected.items()})
    assert again["outputs"]["largest_difference"] == 0
    same = run(tiny_decoder, "hf", "same")
    assert_same(states(tmp_path / "same"), states(tiny_decoder))
    assert same["outputs"]["largest_difference"] == 0
    names = {file.name for file in tiny_decoder.iterdir()}
    assert {file.name for file in (tmp_path / "same").iterdir()} == names | {"conversion.json"}


def test_each_tensor_is_traced_to_its_source(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    import hashlib

    account = run(tiny_encoder, "hf", "out")
    traced = {record["name"]: record for record in account["tensors"]}
    source = states(tiny_encoder)
    assert traced.keys() == source.keys()
    for name, tensor in source.items():
        assert traced[name]["sha256"] == hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        assert traced[name]["from"] == [{"file": "model.safetensors", "key": name}]
        assert (traced[name]["shape"], traced[name]["how"]) == (list(tensor.shape), "as it is")
    assert account["parameters"] == sum(tensor.numel() for tensor in source.values())


def test_a_folder_of_torch_shards_becomes_safetensors(
    tiny_decoder: Path, tmp_path: Path, run: Convert
) -> None:
    old, tensors = tmp_path / "old", states(tiny_decoder)
    old.mkdir()
    (old / "config.json").write_bytes((tiny_decoder / "config.json").read_bytes())
    halves = (dict(list(tensors.items())[:5]), dict(list(tensors.items())[5:]))
    index = {}
    for i, half in enumerate(halves):
        torch.save(half, old / f"pytorch_model-{i}.bin")
        index |= dict.fromkeys(half, f"pytorch_model-{i}.bin")
    (old / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    run(old, "hf", "new")
    assert_same(states(tmp_path / "new"), tensors)
    (old / "pytorch_model-1.bin").unlink()
    with pytest.raises(ModelError, match=r"1 of the 2 files .* missing: pytorch_model-1\.bin"):
        run(old, "hf", "newer")


def test_tied_weights_stay_tied(tmp_path: Path, run: Convert) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    source = tmp_path / "source"
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(source)
    torch.save(model.state_dict(), source / "pytorch_model.bin")  # both names, one storage
    account = run(source, "hf", "out")
    assert "lm_head.weight" not in states(tmp_path / "out")
    assert account["left_out"] == [
        {
            "file": "pytorch_model.bin",
            "key": "lm_head.weight",
            "reason": "tied to model.embed_tokens.weight",
        }
    ]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["lm_head.weight"][0, 0] += 1
    torch.save(state, source / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"lm_head\.weight and model\.embed_tokens\.weight differ"):
        run(source, "hf", "other")


def test_an_encoder_goes_through_every_layout_and_keeps_its_vectors(
    two_towers: Path, tmp_path: Path, run: Convert
) -> None:
    dual = run(two_towers, "hf-dual", "dual")
    assert [line.split(":")[0] for line in dual["lost"]] == [
        "pooling", "normalize", "query_prefix", "passage_prefix",
    ]  # fmt: skip
    told = {
        "pooling": "cls", "normalize": False, "query_prefix": "ask: ", "passage_prefix": "read: ",
    }  # fmt: skip
    dpr = run(tmp_path / "dual", "dpr", "dpr")
    assert {left["reason"] for left in dpr["left_out"]} == {
        "the pooler: vectors are made without",
    }
    back = run(tmp_path / "dpr", "sentence-transformers", "back", encoder=told)
    assert back["outputs"]["largest_difference"] == 0
    before, after = Encoder.load(str(two_towers)), Encoder.load(str(tmp_path / "back"))
    assert after.settings == before.settings
    text = ["the relay opens when the fuse fails"]
    for kind in ("query", "passage"):
        with torch.no_grad():
            vectors = [e.encode_as(kind, e.tokenize(text, kind)) for e in (before, after)]
        assert torch.equal(*vectors)
    queries = AutoModel.from_pretrained(tmp_path / "dual" / "q_encoder").state_dict()
    assert_same(queries, before.model.state_dict())


def test_folders_of_dpr_load_as_its_classes(two_towers: Path, tmp_path: Path, run: Convert) -> None:
    run(two_towers, "dpr", "dpr")
    encoder = Encoder.load(str(two_towers))
    ids = torch.tensor([encoder.tokenize(["red light"], "passage")[0]])
    question = DPRQuestionEncoder.from_pretrained(tmp_path / "dpr" / "q_encoder")
    context = DPRContextEncoder.from_pretrained(tmp_path / "dpr" / "ctx_encoder")
    with torch.no_grad():
        for theirs, route in ((question, "query"), (context, "document")):
            ours = AutoModel.from_pretrained(two_towers / f"{route}_0_Transformer")
            expected = ours(ids).last_hidden_state[:, 0]
            assert torch.allclose(theirs(ids).pooler_output, expected, atol=1e-6)


def test_a_pair_of_folders_is_read_by_passages(
    tiny_encoder: Path, two_towers: Path, tmp_path: Path, run: Convert
) -> None:
    run(two_towers, "hf-dual", "dual")
    pair = tmp_path / "dual"
    run(pair / "q_encoder", "hf-dual", "joined", passages=str(pair / "ctx_encoder"))
    for name in ("q_encoder", "ctx_encoder"):
        assert_same(states(tmp_path / "joined" / name), states(pair / name))
    with pytest.raises(ConfigError, match="passages: .* is sentence-transformers"):
        run(two_towers, "hf-dual", "no", passages=str(tiny_encoder))
    with pytest.raises(ModelError, match="two towers, and hf holds one"):
        run(two_towers, "hf", "no")


def test_one_tower_for_both_is_written_twice(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    account = run(tiny_encoder, "hf-dual", "dual")
    assert account["made"] == {"ctx_encoder": "the same weights as q_encoder"}
    for name in ("q_encoder", "ctx_encoder"):
        assert_same(states(tmp_path / "dual" / name), states(tiny_encoder))


def test_dense_layers_are_kept_or_refused(tiny_encoder: Path, tmp_path: Path, run: Convert) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    torch.manual_seed(0)
    parts = [Transformer(str(tiny_encoder)), Pooling(32), Dense(32, 8)]
    theirs = SentenceTransformer(modules=parts, device="cpu")
    theirs.save(str(tmp_path / "dense"))
    account = run(tmp_path / "dense", "sentence-transformers", "out")
    assert {"dense.0.linear.weight", "dense.0.linear.bias"} <= {
        record["name"] for record in account["tensors"]
    }
    ours = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert (ours.encode(["red"]) == theirs.encode(["red"])).all()
    with pytest.raises(ModelError, match="no room for the 1 dense layers"):
        run(tmp_path / "dense", "hf", "plain")


def test_settings_that_are_given_win(tiny_encoder: Path, tmp_path: Path, run: Convert) -> None:
    told = {"pooling": "cls", "normalize": False, "query_prefix": "q: ", "max_length": 64}
    account = run(tiny_encoder, "sentence-transformers", "out", encoder=told)
    assert account["made"] == {}
    settings = Encoder.load(str(tmp_path / "out")).settings
    assert settings == EncoderSettings("cls", False, "q: ", "", max_length=64)


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("sentence-transformers", "pooling: 'mean', normalize: True"),
        ("cerebras", "pooling: 'cls', normalize: False"),
    ],
)
def test_settings_that_nobody_said_are_told(
    tiny_encoder: Path, run: Convert, to: str, expected: str
) -> None:
    account = run(tiny_encoder, to, "out")
    assert list(account["made"]) == [expected]
    assert f"made: {expected}: no file says so: if it is otherwise" in account["said"]
    account = run(tiny_encoder, to, "other", encoder={"pooling": "cls"})
    assert list(account["made"]) == [expected.split(", ")[1]]


def test_what_exists_is_replaced_by_force_alone(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(RunError, match=r"out: exists already; --force replaces it"):
        run(tiny_encoder, "hf", "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"
    run(tiny_encoder, "hf", "out", force=True)
    assert not (tmp_path / "out" / "mine.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_source_is_not_replaced_by_itself(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    run(tiny_encoder, "hf", "out")
    before = states(tmp_path / "out")
    with pytest.raises(RunError, match=r"out: \S*out is read, and --force would remove it"):
        run(tmp_path / "out", "hf", "out", force=True, max_shard_size="50KB")
    assert_same(states(tmp_path / "out"), before)


def test_an_encoder_without_a_tokenizer_is_named(
    tiny_encoder: Path, tmp_path: Path, run: Convert, log_lines: list[str]
) -> None:
    run(tiny_encoder, "hf", "bare")
    for file in (tmp_path / "bare").glob("*token*"):
        file.unlink()
    (tmp_path / "bare" / "vocab.txt").unlink(missing_ok=True)
    run(tmp_path / "bare", "sentence-transformers", "out")
    assert any("no tokenizer for 1 of 1 towers" in line for line in log_lines)


def test_what_is_read_is_not_removed_by_force(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    run(tiny_encoder, "hf", "all/model")
    with pytest.raises(RunError, match=r"all: \S*model is read, and --force would"):
        run(tmp_path / "all" / "model", "hf", "all", force=True)
    changed = {**states(tiny_encoder)}
    changed["encoder.layer.0.output.dense.weight"] *= 2
    run(tiny_encoder, "hf", "tuned")
    save_file(changed, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    base = tmp_path / "all" / "model"
    with pytest.raises(RunError, match=r"model: \S*model is read"):
        run(tmp_path / "tuned", "lora", "all/model", base=str(base), force=True)
    assert_same(states(base), states(tiny_encoder))


def test_what_was_there_stays_where_nothing_takes_its_place(
    tiny_encoder: Path, tmp_path: Path, run: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny_encoder, "hf", "out")
    (tmp_path / "out" / "mine.txt").write_text("kept")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith(".out.") and target.name == "out":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(RunError, match="out: cannot be written: Input/output error"):
        run(tiny_encoder, "hf", "out", force=True)
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_link_to_nothing_is_there(tiny_encoder: Path, tmp_path: Path, run: Convert) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(RunError, match="out: exists already"):
        run(tiny_encoder, "hf", "out")
    run(tiny_encoder, "hf", "out", force=True)
    assert (tmp_path / "out" / "config.json").is_file() and not (tmp_path / "out").is_symlink()


def test_what_a_killed_conversion_left_is_named(
    tiny_encoder: Path, tmp_path: Path, run: Convert, log_lines: list[str]
) -> None:
    (tmp_path / ".out.abc").mkdir()
    run(tiny_encoder, "hf", "out")
    assert any(".out.abc: of another conversion" in line for line in log_lines)
    assert (tmp_path / ".out.abc").exists()


@pytest.mark.parametrize("size", ["1B", "0KB", "2 GB", "much"])
def test_a_size_that_is_none_is_named(
    tiny_encoder: Path, tmp_path: Path, run: Convert, size: str
) -> None:
    with pytest.raises(ConfigError, match=f"'{size}': expected a size in KB, MB, GB or TB"):
        run(tiny_encoder, "hf", "out", max_shard_size=size)


def test_a_source_that_transformers_cannot_load_is_named_before_anything_is_written(
    tiny_decoder: Path, tmp_path: Path, run: Convert
) -> None:
    run(tiny_decoder, "hf", "source")
    tensors = states(tmp_path / "source")
    tensors.pop("model.norm.weight")
    save_file(tensors, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"/source: .* weights that are not there: model\.norm"):
        run(tmp_path / "source", "hf", "out")


def test_nothing_is_left_where_a_check_fails(
    tiny_encoder: Path, tmp_path: Path, run: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
        name = "encoder.layer.1.output.dense.bias"
        tensors = {k: v.clone() for k, v in tensors.items()}
        tensors[name][3] += 1e-6
        save_file(tensors, file, metadata)

    monkeypatch.setattr(weights, "save_file", spoiled)
    with pytest.raises(ModelError, match=r"layer\.1\.output\.dense\.bias: what was written is not"):
        run(tiny_encoder, "hf", "out")
    assert list(tmp_path.iterdir()) == []
    run(tiny_encoder, "hf", "out", check=False)  # unchecked, it would have gone unseen


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("num_hidden_layers", 3, "says 3 layers, and there are weights of 2"),
        ("num_hidden_layers", 1, "says 1 layers, and there are weights of 2"),
        ("intermediate_size", 48, r"intermediate\S+: its configuration expects .*48.*found .*64"),
        ("vocab_size", 10, r"word_embeddings\S+: its configuration expects \(10, 32\), found"),
    ],
)
def test_a_wrong_configuration_is_named_with_what_was_expected(
    tiny_encoder: Path, tmp_path: Path, run: Convert, setting: str, value: int, said: str
) -> None:
    source = tmp_path / "source"
    BertModel.from_pretrained(tiny_encoder).save_pretrained(source)
    config = json.loads((source / "config.json").read_text()) | {setting: value}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said):
        run(source, "hf", "out")
    assert not (tmp_path / "out").exists()


def test_a_layer_that_is_missing_is_named(tiny_encoder: Path, tmp_path: Path, run: Convert) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_bytes((tiny_encoder / "config.json").read_bytes())
    tensors = {k: v for k, v in states(tiny_encoder).items() if ".layer.0." not in k}
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(ModelError, match="no weights of layer 0, but of 1"):
        run(source, "hf", "out")
    kept = {
        k: v for k, v in states(tiny_encoder).items() if k != "encoder.layer.0.output.dense.bias"
    }
    save_file(kept, source / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"expects 1 weights that are not there: encoder\.layer\.0"
    ):
        run(source, "hf", "out")


def test_mixed_precisions_are_told_and_made_one(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_bytes((tiny_encoder / "config.json").read_bytes())
    mixed = {k: v.half() if "attention" in k else v for k, v in states(tiny_encoder).items()}
    save_file(mixed, source / "model.safetensors")
    assert run(source, "hf", "kept")["precision"] == "fp16 (20 tensors), fp32 (19 tensors)"
    assert_same(states(tmp_path / "kept"), mixed)
    assert run(source, "hf", "one", dtype="fp32")["precision"] == "fp32"


def test_unknown_layouts_and_places_are_named(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    with pytest.raises(ConfigError, match="to: 'onnx': no layout that is written; there are "):
        run(tiny_encoder, "onnx", "out")
    with pytest.raises(ModelError, match="no such folder"):
        run(tmp_path / "gone", "hf", "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no checkpoint that ragkit knows"):
        run(tmp_path / "empty", "hf", "out")
    for config in (Config(source=str(tiny_encoder)), Config(source=str(tiny_encoder), to="hf")):
        with pytest.raises(ConfigError, match="not set"):
            convert(config)
    with pytest.raises(RagkitError, match="max_shard_size"):
        run(tiny_encoder, "hf", "out", max_shard_size="many")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_named(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written"):
        run(tiny_encoder, "hf", "out")


def test_inspect_says_what_a_checkpoint_is_and_can_become(tiny_decoder: Path) -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=io.StringIO())
    console.print(inspect(Config(source=str(tiny_decoder))))
    text = console.export_text()
    assert "hf: a folder that transformers loads" in text
    assert "LlamaForCausalLM, 21 tensors" in text
    parameters = sum(tensor.numel() for tensor in states(tiny_decoder).values())
    assert f"{parameters:,}" in text
    assert "to dpr" in text and "no: " in text and "yes: " in text


def test_the_files_are_safetensors_with_their_format(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    run(tiny_encoder, "hf", "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_a_base_within_what_it_is_the_base_of_is_not_removed(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    run(tiny_encoder, "hf", "base")
    changed = states(tiny_encoder)
    changed["encoder.layer.0.output.dense.weight"] *= 2
    run(tiny_encoder, "hf", "tuned")
    save_file(changed, tmp_path / "tuned" / "model.safetensors", metadata={"format": "pt"})
    base = shutil.copytree(tmp_path / "base", tmp_path / "out" / "base")
    with pytest.raises(RunError, match=r"out: \S*base is read, and --force would remove it"):
        run(tmp_path / "tuned", "lora", "out", base=str(base), rank=2, force=True)
    assert_same(states(base), states(tmp_path / "base"))


def test_a_passages_tower_with_more_than_a_plain_folder_says_is_refused(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    run(tiny_encoder, "sentence-transformers", "st", encoder={"pooling": "cls"})
    with pytest.raises(ConfigError, match=r"two plain folders \(hf\), and \S*st is sentence-tra"):
        run(tiny_encoder, "hf-dual", "out", passages=str(tmp_path / "st"))


@pytest.mark.parametrize("similarity", ["cosine", "euclidean", None])
def test_prompts_and_scores_of_a_sentence_transformers_folder_stay(
    similarity: str | None, tiny_encoder: Path, tmp_path: Path, run: Convert,
    sentence_transformers: ModuleType,
) -> None:  # fmt: skip
    plain = {"normalize": False, "query_prefix": "ask: "}
    run(tiny_encoder, "sentence-transformers", "st", encoder=plain)
    file = tmp_path / "st" / "config_sentence_transformers.json"
    said = {
        "prompts": {"clustering": "group: ", "query": "ask: ", "document": ""},
        "default_prompt_name": "query",
        "similarity_fn_name": similarity,
    }
    file.write_text(json.dumps(said))
    run(tmp_path / "st", "sentence-transformers", "out", dtype="bf16", max_shard_size="50KB")
    before, after = (
        sentence_transformers.SentenceTransformer(str(tmp_path / name), device="cpu")
        for name in ("st", "out")
    )
    assert after.prompts == before.prompts == said["prompts"]
    assert after.default_prompt_name == before.default_prompt_name == "query"
    assert after.similarity_fn_name == before.similarity_fn_name == (similarity or "cosine")


def test_settings_that_a_layout_has_no_word_for_are_named(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    run(tiny_encoder, "sentence-transformers", "st")
    for name, key, value in (
        ("sentence_bert_config.json", "do_lower_case", True),
        ("1_Pooling/config.json", "include_prompt", False),
    ):
        file = tmp_path / "st" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    lost = run(tmp_path / "st", "hf", "plain")["lost"]
    assert [each.split(" (")[0] for each in lost] == ["include_prompt: False", "lower_case: True"]
    assert all("sentence-transformers" in each for each in lost)
    cerebras = run(tmp_path / "st", "cerebras", "mdl")["lost"]
    assert not any("encoder.lower_case" in each for each in cerebras)
    for to in ("hf", "hf-dual", "dpr"):  # asked for, and not held
        lost = run(tiny_encoder, to, f"asked-{to}", encoder={"query_prefix": "ask: "})["lost"]
        assert "query_prefix: 'ask: ' (where it is used, set encoder.query_prefix)" in lost


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (hf.BertForPreTraining, "outputs on random tokens: equal"),
        (hf.LlamaForSequenceClassification, "outputs on random tokens: equal"),
        (hf.BartForSequenceClassification, "outputs not compared: BartForSequenceClassification"),
    ],
)
def test_models_of_every_head_are_compared_or_said_not_to_be(
    kind: Any, told: str, tmp_path: Path, run: Convert
) -> None:
    sizes = {
        "vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 24, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24, "eos_token_id": 89,
    }  # fmt: skip
    kind(kind.config_class(**sizes)).save_pretrained(tmp_path / "source")
    assert told in run(tmp_path / "source", "hf", "out")["said"]
    said = run(tmp_path / "source", "hf", "unasked", outputs=False)["said"]
    assert "outputs not compared: not asked for (--no-outputs)" in said


def test_a_model_that_runs_no_more_is_not_the_same(
    tiny_encoder: Path, tmp_path: Path, run: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, ran = proof.outputs_of, []

    def once(models: Any) -> Any:
        if ran:
            raise proof.NotRunError("BertModel of random tokens: no")
        ran.append(models)
        return own(models)

    monkeypatch.setattr(proof, "outputs_of", once)
    with pytest.raises(ModelError, match="it ran before and does not now: BertModel"):
        run(tiny_encoder, "hf", "out")
    assert not (tmp_path / "out").exists()


def test_tensors_that_share_a_memory_are_written_apart(tmp_path: Path, run: Convert) -> None:
    torch.manual_seed(0)
    model = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2))
    config = model.config.to_dict()
    del config["architectures"]  # so that nothing says which of its weights are one
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), tmp_path / "source" / "pytorch_model.bin")
    run(tmp_path / "source", "hf", "out", check=False)
    assert_same(states(tmp_path / "out"), dict(model.state_dict()))


def test_a_pair_of_dpr_folders_becomes_plain_towers(
    dpr_pair: Path, tmp_path: Path, run: Convert
) -> None:
    account = run(dpr_pair / "q", "hf-dual", "out", passages=str(dpr_pair / "c"))
    assert account["outputs"] == {"largest_difference": 0.0}
    assert "normalize: False (where it is used, set encoder.normalize)" in account["lost"]
    for name, source, kind in (
        ("q_encoder", "q", DPRQuestionEncoder), ("ctx_encoder", "c", DPRContextEncoder)
    ):  # fmt: skip
        inner = getattr(kind.from_pretrained(dpr_pair / source), kind.base_model_prefix).bert_model
        assert_same(states(tmp_path / "out" / name), dict(inner.state_dict()))


@pytest.fixture
def dpr_pair(tmp_path: Path) -> Path:
    """The two folders of a DPR: q and c."""
    torch.manual_seed(0)
    config = hf.DPRConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24,
    )  # fmt: skip
    DPRQuestionEncoder(config).save_pretrained(tmp_path / "dpr" / "q")
    DPRContextEncoder(config).save_pretrained(tmp_path / "dpr" / "c")
    return tmp_path / "dpr"


def test_a_head_without_its_pooler_is_not_whole(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    """An encoder does without; a classifier's scores are made of it."""
    config = hf.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24,
    )  # fmt: skip
    hf.BertForSequenceClassification(config).save_pretrained(tmp_path / "source")
    kept = {k: v for k, v in states(tmp_path / "source").items() if "pooler" not in k}
    save_file(kept, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="expects 2 weights that are not there: bert.pooler"):
        run(tmp_path / "source", "hf", "out")


def test_a_model_beside_adapters_is_ambiguous(tiny_decoder: Path, tmp_path: Path) -> None:
    both = shutil.copytree(tiny_decoder, tmp_path / "both")
    (both / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="both: a model and adapters .* in one folder"):
        inspect(Config(source=str(both)))


@pytest.mark.parametrize("file", ["spm.model", "source.spm", "bpe.codes", "tekken.json"])
def test_a_tokenizer_goes_along_whatever_its_file(
    file: str, tiny_encoder: Path, tmp_path: Path, run: Convert, log_lines: list[str]
) -> None:
    run(tiny_encoder, "hf", "source")
    for token in (tmp_path / "source").glob("*token*"):
        token.unlink()
    (tmp_path / "source" / "vocab.txt").unlink(missing_ok=True)
    (tmp_path / "source" / file).write_bytes(b"pieces")
    run(tmp_path / "source", "hf", "out")
    assert (tmp_path / "out" / file).read_bytes() == b"pieces"
    run(tmp_path / "source", "sentence-transformers", "st")
    assert not any("no tokenizer" in line for line in log_lines)


def test_one_number_beyond_a_precision_hides_no_other(
    tiny_encoder: Path, tmp_path: Path, run: Convert
) -> None:
    run(tiny_encoder, "hf", "source")
    large = states(tiny_encoder)
    name = "encoder.layer.0.output.dense.weight"
    large[name][0, :2] = torch.tensor([torch.inf, 1e6])
    save_file(large, tmp_path / "source" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{name}: its largest value, 1e.06, is beyond fp16"):
        run(tmp_path / "source", "hf", "out", dtype="fp16")
