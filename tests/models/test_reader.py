"""Span readers: pairs as the tokenizer makes them, packed as padded, the best spans."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    ByT5Tokenizer,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    DPRConfig,
    DPRContextEncoder,
    LlamaConfig,
    ModernBertConfig,
    ModernBertForQuestionAnswering,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
    T5Config,
)

from ragkit.data.schema import Conversation, Passage
from ragkit.errors import ModelError
from ragkit.models.reader import SpanReader, best_ends, span_logits

A = Passage("a", "The relay closes after 12 seconds. The pump stops.", title="Relay")
B = Passage("b", "A fuse holds 12 volts.")
LONG = Passage("c", "the gateway " * 80)

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "max_position_embeddings": 130, "initializer_range": 0.2,
         "vocab_size": 400}  # fmt: skip
KINDS: dict[str, Any] = {
    "bert": (BertForQuestionAnswering, BertConfig(**SIZES)),
    "roberta": (RobertaForQuestionAnswering, RobertaConfig(**SIZES, pad_token_id=0)),
    "modernbert": (
        ModernBertForQuestionAnswering,
        ModernBertConfig(
            **SIZES, pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3,
            local_attention=16,
        ),
    ),
}  # fmt: skip


@pytest.fixture
def reader(tiny_encoder: Path) -> SpanReader:
    return SpanReader.load(str(tiny_encoder), head_seed=0)


def of_kind(kind: str, tokenizer: Any) -> SpanReader:
    torch.manual_seed(0)
    architecture, config = KINDS[kind]
    return SpanReader(architecture(deepcopy(config)).eval(), tokenizer, 128)


def folder_of(tokenizer: Any, config: PretrainedConfig, folder: Path) -> Path:
    """A model folder without weights: what is refused before they are read."""
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_pair_is_what_the_tokenizer_makes_of_it(reader: SpanReader) -> None:
    (pair,) = reader.pairs("when does the relay stop?", [A])
    asked, text = "when does the relay stop?", A.rendered
    expected = reader.tokenizer(asked, text, return_token_type_ids=True)
    assert list(pair.ids) == expected["input_ids"]
    assert list(pair.types) == expected["token_type_ids"]
    assert not pair.is_cut


@pytest.mark.parametrize("given", [True, False])
def test_token_types_are_given_where_the_tokenizer_gives_them(
    given: bool, tiny_encoder: Path
) -> None:
    tokenizer = SpanReader.load(str(tiny_encoder), head_seed=0).tokenizer
    tokenizer.model_input_names = ["input_ids", *["token_type_ids"] * given, "attention_mask"]
    reader = of_kind("bert", tokenizer)
    pairs = reader.pairs("when?", [A, B])
    inputs, starts = reader.batch(pairs)
    with torch.no_grad():
        for pair, start in zip(pairs, starts, strict=True):
            plain = reader.tokenizer.pad({"input_ids": [pair.ids]}, return_tensors="pt")
            if given:
                plain["token_type_ids"] = torch.tensor([pair.types])
            ours = span_logits(reader.model, inputs)[0][start : start + len(pair.ids)]
            reader.model.set_attn_implementation("sdpa")
            theirs = reader.model(**plain).start_logits[0]
            reader.model.set_attn_implementation("ragkit_packed")
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_tokens_of_the_text_know_where_they_stand_and_the_title_is_none_of_them(
    reader: SpanReader,
) -> None:
    (pair,) = reader.pairs("when?", [A])
    tokens = pair.ids[pair.first : pair.first + len(pair.places)]
    told = [A.text[start:end].lower() for start, end in pair.places]
    assert reader.tokenizer.convert_ids_to_tokens(list(tokens))[:4] == told[:4]
    assert told[:4] == ["the", "relay", "closes", "after"]
    assert pair.places[-1] == (len(A.text) - 1, len(A.text))


def test_the_passage_loses_its_end_and_never_the_question(reader: SpanReader) -> None:
    question = "what does the gateway do when the power is not on?"
    (pair,) = reader.pairs(question, [LONG])
    asked = reader.tokenizer(question)["input_ids"]
    assert len(pair.ids) == 128 and pair.is_cut
    assert list(pair.ids[: len(asked)]) == asked


def test_a_separator_that_is_written_out_separates_nothing(reader: SpanReader) -> None:
    (pair,) = reader.pairs("which [SEP]", [Passage("p", "the [SEP] pump")])
    read = reader.tokenizer.convert_ids_to_tokens(pair.ids)
    letters = ["[", "s", "##e", "##p", "]"]
    assert read == ["[CLS]", "which", *letters, "[SEP]", "the", *letters, "pump", "[SEP]"]
    assert [pair.places[i] for i in (0, 1, 5, 6)] == [(0, 3), (4, 5), (8, 9), (10, 14)]


def test_a_separator_that_the_tokenizer_knows_as_a_word_is_unknown(reader: SpanReader) -> None:
    """As DeBERTa's and XLM-RoBERTa's: their special tokens are pieces of their Unigram model."""
    pieces = ["[UNK]", "[CLS]", "[SEP]", "▁", "a", "b"]
    made = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    words = PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    (pair,) = SpanReader(reader.model, words, 64).pairs("a", [Passage("p", "b[SEP]a")])
    assert pair.ids == (1, 3, 4, 2, 3, 5, 0, 4, 2)


def test_a_conversation_loses_its_earliest_turns(reader: SpanReader) -> None:
    turns = ["the valve opens " * 20, "is the pump on?", "what does it do?"]
    (pair,) = reader.pairs(Conversation(turns), [B])
    expected = reader.tokenizer("\n".join(turns[1:]), B.text)["input_ids"]
    assert list(pair.ids) == expected


def test_a_question_that_leaves_no_room_gives_no_pairs(reader: SpanReader) -> None:
    assert reader.pairs("the gateway " * 70, [A, B]) == []
    assert reader.pairs("when?", []) == []


@pytest.mark.parametrize("kind", KINDS)
def test_packed_logits_equal_padded_ones_and_those_of_one_pair_at_a_time(
    kind: str, reader: SpanReader
) -> None:
    packed, padded = (of_kind(kind, reader.tokenizer) for _ in range(2))
    padded.position_offset = None
    padded.model.set_attn_implementation("eager")
    asked = [p for q in ("when?", "what does the relay do?") for p in packed.pairs(q, [LONG, A, B])]
    with torch.no_grad():
        found = []
        for one in (packed, padded):
            inputs, starts = one.batch(asked)
            found.append((span_logits(one.model, inputs), starts))
        (ours, starts), (theirs, _) = found
        assert "packed_lengths" in packed.batch(asked).inputs
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        for pair, start in zip(asked, starts, strict=True):
            alone = padded.model(input_ids=torch.tensor([pair.ids])).start_logits[0]
            torch.testing.assert_close(
                ours[0][start : start + len(pair.ids)], alone, rtol=0, atol=1e-5
            )


def test_a_model_that_is_not_packed_is_padded(reader: SpanReader) -> None:
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=400, dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    model = DistilBertForQuestionAnswering(config).eval()
    other = SpanReader(model, reader.tokenizer, 128)
    inputs, _ = other.batch(other.pairs("when?", [A, B]))
    assert set(inputs) == {"input_ids", "attention_mask"}
    with torch.no_grad():
        assert [s is not None for s in other.best_spans(other.pairs("when?", [A, B]), 5)] == [
            True,
            True,
        ]


def test_the_best_end_is_within_the_text_and_the_length() -> None:
    begins = torch.tensor([9.0, 1.0, 2.0, 0.0, 9.0, 5.0])
    ends = torch.tensor([9.0, 0.0, 1.0, 3.0, 9.0, 4.0])
    owner = torch.tensor([-1, 0, 0, 0, -1, 1])
    scores, lengths = best_ends(begins, ends, owner, 2)
    assert scores.tolist() == [-torch.inf, 2.0, 5.0, 3.0, -torch.inf, 9.0]
    assert lengths[[1, 2, 3, 5]].tolist() == [1, 1, 0, 0]
    scores, lengths = best_ends(begins, ends, owner, 30)
    assert (scores[1].item(), lengths[1].item()) == (4.0, 2)


def test_the_best_span_is_that_of_trying_all_pairs_of_tokens(reader: SpanReader) -> None:
    pairs = [p for q in ("when?", "what is red?") for p in reader.pairs(q, [A, B, LONG])]
    with torch.no_grad():
        found = reader.best_spans(pairs, 7)
        for pair, span in zip(pairs, found, strict=True):
            begin, end = span_logits(reader.model, reader.batch([pair]).inputs)
            count = len(pair.places)
            tried = {
                (i, j): float(begin[pair.first + i] + end[pair.first + j])
                for i in range(count)
                for j in range(i, min(i + 7, count))
            }
            i, j = max(tried, key=tried.__getitem__)
            assert span is not None
            assert (span.start, span.end) == (pair.places[i][0], pair.places[j][1])
            assert span.score == pytest.approx(tried[i, j], abs=1e-5)
            assert span.no_answer == pytest.approx(float(begin[0] + end[0]), abs=1e-5)


def test_a_passage_of_which_nothing_is_read_has_no_span(reader: SpanReader) -> None:
    title = Passage("t", "The pump stops.", title="gateway " * 130)
    (pair,) = reader.pairs("when?", [title])
    assert pair.places == () and pair.is_cut
    with torch.no_grad():
        assert reader.best_spans([pair], 5) == [None]
        assert reader.best_spans([pair, *reader.pairs("when?", [B])], 5)[1] is not None


def test_a_new_head_depends_on_its_seed_alone(tiny_encoder: Path) -> None:
    heads = []
    for seed, other in ((3, 0), (3, 1), (4, 1)):
        torch.manual_seed(other)
        model = SpanReader.load(str(tiny_encoder), head_seed=seed).model
        heads.append(model.get_parameter("qa_outputs.weight").detach())
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])


def test_a_saved_reader_loads_with_transformers_alone_and_again(
    reader: SpanReader, tmp_path: Path
) -> None:
    reader.max_length = 100
    reader.save(tmp_path / "reader")
    plain, report = AutoModelForQuestionAnswering.from_pretrained(
        tmp_path / "reader", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    (pair,) = reader.pairs("when?", [A])
    encoded = reader.tokenizer("when?", A.rendered, return_tensors="pt")
    again = SpanReader.load(str(tmp_path / "reader"))
    assert again.max_length == 100
    with torch.no_grad():
        ours = span_logits(reader.model, reader.batch([pair]).inputs)
        torch.testing.assert_close(plain(**encoded).start_logits[0], ours[0], rtol=0, atol=1e-5)
        theirs = span_logits(again.model, again.batch([pair]).inputs)
    torch.testing.assert_close(theirs[1], ours[1], rtol=0, atol=0)


def test_an_encoder_without_a_head_is_no_reader_until_it_is_trained(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="has not learned to read.*train-generator"):
        SpanReader.load(str(tiny_encoder))


def test_a_length_beyond_the_positions_is_refused(tiny_encoder: Path) -> None:
    with pytest.raises(ModelError, match="max_length: 129 is more than the 128 tokens"):
        SpanReader.load(str(tiny_encoder), 129, head_seed=0)


def test_weights_that_lack_a_layer_are_refused(reader: SpanReader, tmp_path: Path) -> None:
    reader.save(tmp_path)
    BertConfig(**{**reader.model.config.to_dict(), "num_hidden_layers": 3}).save_pretrained(
        tmp_path
    )
    with pytest.raises(ModelError, match="its weights lack bert.encoder.layer.2"):
        SpanReader.load(str(tmp_path))


def test_an_architecture_that_reads_no_spans_is_refused(reader: SpanReader, tmp_path: Path) -> None:
    config = DPRConfig(**SIZES)
    DPRContextEncoder(config).save_pretrained(tmp_path)
    reader.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded as a reader: Unrecognized config"):
        SpanReader.load(str(tmp_path), head_seed=0)


def test_an_encoder_with_a_decoder_is_refused(reader: SpanReader, tmp_path: Path) -> None:
    folder = folder_of(reader.tokenizer, T5Config(d_model=32, num_layers=1), tmp_path)
    with pytest.raises(ModelError, match="an encoder with a decoder; a span reader is made of"):
        SpanReader.load(str(folder), head_seed=0)


def test_a_tokenizer_without_a_first_token_is_refused(reader: SpanReader, tmp_path: Path) -> None:
    backend = deepcopy(reader.tokenizer.backend_tokenizer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    folder = folder_of(tokenizer, LlamaConfig(hidden_size=32, num_hidden_layers=1), tmp_path)
    with pytest.raises(ModelError, match=r"begins a text with no \[CLS\] token"):
        SpanReader.load(str(folder), head_seed=0)


def test_a_tokenizer_that_is_not_fast_is_refused(tmp_path: Path) -> None:
    folder = folder_of(ByT5Tokenizer(), BertConfig(), tmp_path)
    with pytest.raises(ModelError, match="its tokenizer is not a fast one"):
        SpanReader.load(str(folder), head_seed=0)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model in it"):
        SpanReader.load(str(tmp_path))
