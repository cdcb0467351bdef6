"""Span readers: a question and a passage, to how well each word begins or ends the answer.

An encoder with the head of `AutoModelForQuestionAnswering`. The first token ([CLS]) stands for no
answer. Logits of several passages are on one scale, as they are learned together (Clark and
Gardner, 2018). Which of several passages answers is `ragkit.rag.reading`'s business, what is
learned `ragkit.training.reading`'s.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ragkit.data.schema import Conversation, Passage
from ragkit.errors import ModelError
from ragkit.log import hushed
from ragkit.models import packing, products
from ragkit.models.layouts import DAMAGED, read_layout
from ragkit.models.loading import REPORTS, positions
from ragkit.models.resolve import resolve_model

INPUTS = ("input_ids", "token_type_ids", "position_ids", "attention_mask", "packed_lengths")


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with a passage, in tokens: `[CLS] question [SEP] title, text [SEP]`.

    ids, types: of all tokens
    first: the first token of the passage's text; those of its title answer nothing
    places: where each token of the text stands in it, (start, end) in characters
    is_cut: the end of the passage is left out
    """

    ids: tuple[int, ...]
    types: tuple[int, ...]
    first: int
    places: tuple[tuple[int, int], ...]
    is_cut: bool = False


class Batch(NamedTuple):
    """Pairs as a model takes them.

    starts: where each pair begins among the logits of all tokens, in the order given
    """

    inputs: dict[str, Any]
    starts: list[int]


@dataclass(frozen=True, slots=True)
class Span:
    """The best span of a passage.

    start, end: of its text, in characters
    score: its two logits together
    no_answer: those of no answer
    """

    start: int
    end: int
    score: float
    no_answer: float


class SpanReader:
    """A transformer with a head for spans, and its tokenizer.

    max_length: tokens of a question and a passage together
    special: tokens that no text has, where there is one for what is unknown
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> None:
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        known = tokenizer.all_special_ids if tokenizer.unk_token_id is not None else []
        self.special = frozenset(known)
        self.position_offset = packing.position_offset(model.config)
        if self.position_offset is not None:
            model.set_attn_implementation(packing.IMPLEMENTATION)
        # as whoever loads model and tokenizer from a checkpoint will do it
        self.has_types = "token_type_ids" in tokenizer.model_input_names and (
            "token_type_ids" in inspect.signature(model.forward).parameters
        )

    @classmethod
    def load(
        cls,
        reference: str,
        max_length: int | None = None,
        *,
        head_seed: int | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Load a reader by hub name, folder or run directory; fp32, on the CPU.

        max_length: unset: what the tokenizer says and the model has positions for
        head_seed: of a new head, where the model is an encoder without one
        Raises:
            ModelError: no such model, one that reads no spans, or that has too few positions.
        """
        layout = read_layout(resolve_model(reference))[0]
        place: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        if layout.transformer:
            place["subfolder"] = layout.transformer
        try:
            config = AutoConfig.from_pretrained(layout.source, **place)
            tokenizer = AutoTokenizer.from_pretrained(layout.source, **place)
            _check_kind(reference, getattr(config, "is_encoder_decoder", False), tokenizer)
            with hushed(REPORTS), torch.random.fork_rng(devices=[]):
                torch.manual_seed(head_seed or 0)
                model, report = AutoModelForQuestionAnswering.from_pretrained(
                    layout.source, dtype=torch.float32, num_labels=2, output_loading_info=True,
                    **place,
                )  # fmt: skip
        except (*DAMAGED, ImportError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"{reference}: cannot be loaded as a reader: {reason}") from error
        _check_weights(reference, model, report["missing_keys"], head_seed is not None)
        most = positions(model.base_model)
        if max_length is not None and max_length > most:
            raise ModelError(
                f"max_length: {max_length} is more than the {most} tokens that {reference} has "
                "positions for"
            )
        return cls(
            model.eval(), tokenizer, max_length or min(most, int(tokenizer.model_max_length))
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def pairs(self, question: str, passages: Sequence[Passage]) -> list[Pair]:
        """Return the tokens of a question with each passage.

        A passage that is too long loses its end; a conversation its earliest turns, until half the
        room is left to passages. Empty where the question leaves a passage no room at all.
        """
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
        if isinstance(question, Conversation):
            question = question.last_turns(lambda t: 2 * self._count(t) <= room)
        if not passages or self._count(question) >= room:
            return []
        encoded = self.tokenizer(
            [question] * len(passages),
            [p.rendered for p in passages],
            truncation="only_second",
            max_length=self.max_length,
            return_token_type_ids=True,
            return_attention_mask=False,
            return_offsets_mapping=True,
            split_special_tokens=True,
        )
        return [self._pair(encoded, i, passage) for i, passage in enumerate(passages)]

    def _count(self, text: str) -> int:
        # that it is too long is for us to see to
        encoded = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return len(encoded["input_ids"])

    def _pair(self, encoded: Any, i: int, passage: Passage) -> Pair:
        """Return one of the pairs that the tokenizer made.

        A special token that is written out is letters, or unknown to tokenizers that know it as a
        word (Unigram).
        """
        sequences, ids = encoded.sequence_ids(i), encoded["input_ids"][i]
        title = len(passage.rendered) - len(passage.text)
        texts = [
            j for j, (_, end) in enumerate(encoded["offset_mapping"][i])
            if sequences[j] == 1 and end > title
        ]  # fmt: skip
        places = (encoded["offset_mapping"][i][j] for j in texts)
        written = [
            of is not None and t in self.special for t, of in zip(ids, sequences, strict=True)
        ]
        unknown = self.tokenizer.unk_token_id
        return Pair(
            tuple(unknown if w else token for token, w in zip(ids, written, strict=True)),
            tuple(encoded["token_type_ids"][i]),
            texts[0] if texts else len(sequences),
            tuple((max(start - title, 0), end - title) for start, end in places),
            bool(encoded.encodings[i].overflowing),
        )

    def batch(self, pairs: Sequence[Pair]) -> Batch:
        """Return pairs as the model takes them: packed where it can be, sorted by length."""
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].ids))
        rows = [pairs[i] for i in order]
        starts, at = [0] * len(pairs), 0
        for i in order:
            starts[i], at = at, at + len(pairs[i].ids)
        inputs = self._packed(rows) if self.position_offset is not None else self._padded(rows)
        return Batch(inputs, starts)

    def _packed(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        assert self.position_offset is not None
        lengths = [len(p.ids) for p in pairs]
        inputs: dict[str, Any] = {
            "input_ids": torch.tensor([[i for p in pairs for i in p.ids]]),
            "position_ids": packing.positions(lengths, self.position_offset)[None],
            "packed_lengths": lengths,
        }
        if self.has_types:
            inputs["token_type_ids"] = torch.tensor([[i for p in pairs for i in p.types]])
        return inputs

    def _padded(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        lengths = torch.tensor([len(p.ids) for p in pairs])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        ids = torch.full(mask.shape, self.tokenizer.pad_token_id or 0)
        ids[mask] = torch.tensor([i for p in pairs for i in p.ids])
        inputs = {"input_ids": ids, "attention_mask": mask.long()}
        if self.has_types:
            inputs["token_type_ids"] = torch.zeros_like(ids)
            inputs["token_type_ids"][mask] = torch.tensor([i for p in pairs for i in p.types])
        return inputs

    def best_spans(self, pairs: Sequence[Pair], max_answer_tokens: int) -> list[Span | None]:
        """Return the best span of each passage; None where none of its text was read."""
        inputs, starts = self.batch(pairs)
        on_device = {
            k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in inputs.items()
        }
        begins, ends = (logits.cpu() for logits in span_logits(self.model, on_device))
        owner = torch.full((len(begins),), -1)
        for i, (pair, start) in enumerate(zip(pairs, starts, strict=True)):
            owner[start + pair.first : start + pair.first + len(pair.places)] = i
        scores, lengths = best_ends(begins, ends, owner, max_answer_tokens)
        return [
            _best_span(pair, start, scores, lengths, float(begins[start] + ends[start]))
            for pair, start in zip(pairs, starts, strict=True)
        ]

    def save(self, folder: Path) -> None:
        """Write a checkpoint that `AutoModelForQuestionAnswering` loads, with the tokenizer."""
        self.model.save_pretrained(folder)
        self.tokenizer.model_max_length = self.max_length
        self.tokenizer.save_pretrained(folder)


def span_logits(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the logits of start and end, each (total tokens,) in fp32, padding left out.

    model: the reader's, or what a trainer wraps it in
    inputs: those of `SpanReader.batch`, on the model's device
    """
    with products.exact(inputs["input_ids"].device):
        output = model(**{name: inputs[name] for name in INPUTS if name in inputs})
    mask = inputs.get("attention_mask")
    start, end = (
        logits[0] if mask is None else logits[mask.bool()]
        for logits in (output.start_logits, output.end_logits)
    )
    return start.float(), end.float()


def best_ends(
    begins: Tensor, ends: Tensor, owner: Tensor, max_tokens: int
) -> tuple[Tensor, Tensor]:
    """Return the score of the best span that begins at each token, and how far off its end is.

    begins, ends: (L,) logits
    owner: (L,) the text that a token is of; -1: none, it is in no span
    max_tokens: of a span
    Returns: two of (L,); a token of no text has the score -inf
    """
    width = min(max_tokens, len(ends))
    later = nn.functional.pad(ends, (0, width - 1), value=-torch.inf).unfold(0, width, 1)
    theirs = nn.functional.pad(owner, (0, width - 1), value=-1).unfold(0, width, 1)
    allowed = (theirs == owner[:, None]) & (owner[:, None] >= 0)
    scores, offsets = later.masked_fill(~allowed, -torch.inf).max(dim=1)
    return begins + scores, offsets


def _best_span(
    pair: Pair, start: int, scores: Tensor, lengths: Tensor, no_answer: float
) -> Span | None:
    """Return the best span of the pair that begins at `start` among all tokens."""
    if not pair.places:
        return None
    own = slice(start + pair.first, start + pair.first + len(pair.places))
    at = int(scores[own].argmax())
    last = at + int(lengths[own][at])
    return Span(pair.places[at][0], pair.places[last][1], float(scores[own][at]), no_answer)


def _check_kind(
    reference: str, encodes_and_decodes: bool, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Refuse what cannot be a reader, whatever `transformers` would make of it."""
    needs = (
        "; a span reader is made of an encoder: BERT, RoBERTa, DeBERTa, ModernBERT, ...; what "
        "writes its answers is trained by --method sft, swr or fid"
    )
    if encodes_and_decodes:
        raise ModelError(f"{reference}: it is an encoder with a decoder{needs}")
    if not tokenizer.is_fast:
        raise ModelError(
            f"{reference}: its tokenizer is not a fast one, and does not say where in a text its "
            f"tokens stand{needs}"
        )
    first = tokenizer("a", "b")["input_ids"][0]
    if tokenizer.cls_token_id is None or first != tokenizer.cls_token_id:
        raise ModelError(
            f"{reference}: its tokenizer begins a text with no [CLS] token, which would stand for "
            f"no answer{needs}"
        )


def _check_weights(
    reference: str, model: PreTrainedModel, missing: set[str], may_be_new: bool
) -> None:
    """Refuse weights that would be random numbers; those of a head may be."""
    body = [key for key in sorted(missing) if key.startswith(f"{model.base_model_prefix}.")]
    if body:
        raise ModelError(f"{reference}: its weights lack {body[0]} ({len(body)} missing)")
    if missing and not may_be_new:
        raise ModelError(
            f"{reference}: an encoder that has not learned to read: train it first, with "
            f"ragkit train-generator EXAMPLES --set method=reader -m {reference}"
        )
