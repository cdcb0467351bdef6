"""Encoders: a transformer, its pooling and its prefixes, from texts to vectors.

One tower for queries and passages, or one for each. Where an encoder's files are and what they say
is `ragkit.models.layouts`' business; the order in which a corpus is encoded, and where the vectors
go, is `ragkit.retrieval.encode`'s; gradients and losses are `ragkit.training`'s.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ragkit.config.blocks import EncoderOptions
from ragkit.data.schema import Conversation
from ragkit.errors import ModelError
from ragkit.models import packing, products
from ragkit.models.dense import Dense
from ragkit.models.layouts import (
    EncoderSettings,
    Module,
    TowerLayout,
    read_layout,
    tower_modules,
    write_layout,
    write_tower,
)
from ragkit.models.loading import load_tower
from ragkit.models.resolve import resolve_model

Kind = Literal["query", "passage"]


# what of a transformer's configuration changes its vectors and is in no weight
_COMPUTED = (
    "hidden_act", "hidden_activation", "layer_norm_eps", "rms_norm_eps", "rope_parameters",
    "sliding_window", "layer_types", "use_bidirectional_attention", "is_causal",
)  # fmt: skip


class Encoder(nn.Module):
    """A transformer with pooling: texts to vectors of D dimensions.

    With a tower of its own for passages, it encodes queries alone.

    dense: linear layers between pooling and normalisation
    passage_tower: an encoder of one tower; None: queries and passages share this one
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: EncoderSettings,
        dense: Iterable[nn.Module] = (),
        passage_tower: "Encoder | None" = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.dense = nn.Sequential(*dense)
        self.passage_tower = passage_tower
        self.position_offset = packing.position_offset(model.config)
        if self.position_offset is not None:
            model.set_attn_implementation(packing.IMPLEMENTATION)
        if getattr(model, "pooler", None) is not None:
            model.pooler.requires_grad_(False)  # unused: we pool ourselves, as the folder says
        self._prompt_tokens: dict[str, int] = {}

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        layers = self._dense_layers()
        return layers[-1].linear.out_features if layers else int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def tower(self, kind: Kind) -> "Encoder":
        """Return the encoder whose weights, settings and tokenizer a kind of text goes through."""
        return self.passage_tower if kind == "passage" and self.passage_tower else self

    def fingerprint(self) -> str:
        """Return a hash of weights, settings and tokenizers: equal for equal vectors."""
        digest = hashlib.sha256(repr(self.settings).encode())
        digest.update(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode())
        digest.update(repr(_token_ids(self, ["A b"])).encode())  # what the tokenizer adds, changes
        config = self.model.config
        computed = [repr(getattr(config, key, None)) for key in _COMPUTED]
        computed += [type(layer.activation).__name__ for layer in self._dense_layers()]
        digest.update(repr(computed).encode())
        for part in (self.model, self.dense):
            for name, weights in part.state_dict().items():
                if name.startswith("pooler."):  # unused, and random where a folder has none
                    continue
                digest.update(name.encode())
                digest.update(weights.detach().cpu().flatten().view(torch.uint8).numpy())
        if self.passage_tower is not None:
            digest.update(self.passage_tower.fingerprint().encode())
        return digest.hexdigest()

    @classmethod
    def load(
        cls,
        reference: str,
        options: EncoderOptions | None = None,
        quantize: Literal["4bit"] | None = None,
    ) -> Self:
        """Load an encoder by hub name, folder or run directory; fp32, on the CPU, ready to encode.

        Options that are set override what the model's folder says.

        quantize: hold the transformer's weights in 4 bits, on the GPU
        Raises:
            ModelError: no such model, modules that ragkit does not know, or towers that do not fit.
            MissingExtraError: 4 bits without bitsandbytes.
        """
        options = options or EncoderOptions()
        layouts = read_layout(resolve_model(reference))
        if options.passage_model is not None:
            layouts = [layouts[0], read_layout(resolve_model(options.passage_model))[-1]]
        towers = [cls._load_tower(layout, options, quantize) for layout in layouts]
        encoder = towers[0] if len(towers) == 1 else towers[0].with_passage_tower(towers[1])
        return encoder.eval()

    @classmethod
    def _load_tower(
        cls, layout: TowerLayout, options: EncoderOptions, quantize: str | None
    ) -> Self:
        model, tokenizer, settings = load_tower(layout, options, quantize)
        dense = [Dense.load(layout.source, path) for path in layout.dense]
        return cls(model, tokenizer, settings, dense)

    def with_passage_tower(self, tower: "Encoder | None" = None) -> Self:
        """Return this encoder for queries with another for passages; None: a copy of it.

        Raises:
            ModelError: the two do not give vectors that can be compared.
        """
        tower = deepcopy(self) if tower is None else tower
        if (tower.dimensions, tower.settings.normalize) != (
            self.dimensions,
            self.settings.normalize,
        ):
            sizes = (
                f"{t.dimensions} dimensions{' of length one' * t.settings.normalize}"
                for t in (self, tower)
            )
            raise ModelError(
                f"the towers do not fit: queries get {next(sizes)}, passages {next(sizes)}"
            )
        prefixes: dict[str, Any] = {
            "query_prefix": self.settings.query_prefix,
            "passage_prefix": tower.settings.passage_prefix,
        }
        passages = Encoder(
            tower.model, tower.tokenizer, replace(tower.settings, **prefixes), tower.dense
        )
        settings = replace(self.settings, **prefixes)
        return type(self)(self.model, self.tokenizer, settings, self.dense, passages)

    def tokenize(self, texts: Sequence[str], kind: Kind) -> list[list[int]]:
        """Return the token ids of each text with its prefix, cut at the encoder's limit.

        Of a `Conversation` that is too long the earliest turns are left out; other texts lose
        their end.
        """
        tower = self.tower(kind)
        prefix = tower._prefix(kind)
        token_ids = _token_ids(tower, [prefix + text for text in texts])
        for i, text in enumerate(texts):
            if isinstance(text, Conversation) and len(token_ids[i]) >= tower.settings.max_length:
                shorter = text.last_turns(
                    lambda t: len(_token_ids(tower, [prefix + t])[0]) < tower.settings.max_length
                )
                token_ids[i] = _token_ids(tower, [prefix + shorter])[0]
        return token_ids

    def encode_as(self, kind: Kind, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Encode tokenised texts of one kind; return (B, D) vectors, in the order given."""
        return torch.as_tensor(self(token_ids, len(token_ids) if kind == "query" else 0))

    def forward(self, token_ids: Sequence[Sequence[int]], n_queries: int | None = None) -> Tensor:
        """Encode tokenised texts together.

        token_ids: B lists of token ids
        n_queries: so many of the texts, the first, are queries and the rest passages; needed where
            the two are not treated alike (two towers, prefixes that are not pooled)
        Returns: (B, D) vectors in fp32, in the order given
        """
        passages = self.passage_tower
        if n_queries is None and not (passages is None and self.settings.include_prompt):
            raise ValueError("this encoder must be told which texts are queries (n_queries)")
        if passages is None:
            return self._encode(token_ids, n_queries or 0)
        vectors = []
        if token_ids[:n_queries]:
            vectors.append(self._encode(token_ids[:n_queries], n_queries or 0))
        if token_ids[n_queries:]:
            vectors.append(passages._encode(token_ids[n_queries:], 0))
        return torch.cat(vectors)

    def _encode(self, token_ids: Sequence[Sequence[int]], n_queries: int) -> Tensor:
        """Run texts through this tower alone."""
        order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
        ordered = [token_ids[i] for i in order]
        with products.exact(self.device):
            hidden, lengths = (
                self._packed(ordered) if self.position_offset is not None else self._padded(ordered)
            )
        skipped = None
        if not self.settings.include_prompt:
            counts = (self._count_prompt("query"), self._count_prompt("passage"))
            skipped = [counts[i >= n_queries] for i in order]
        vectors = self._pool(hidden.float(), lengths, skipped)
        inverse = torch.empty(len(order), dtype=torch.long)
        inverse[torch.tensor(order)] = torch.arange(len(order))
        return vectors[inverse.to(vectors.device)]

    def _packed(self, token_ids: list[Sequence[int]]) -> tuple[Tensor, list[int]]:
        """Run all texts as one row; return the states of all tokens, (total tokens, D)."""
        assert self.position_offset is not None
        lengths = [len(ids) for ids in token_ids]
        row = torch.tensor([i for ids in token_ids for i in ids], device=self.device)
        places = packing.positions(lengths, self.position_offset).to(self.device)
        output = self.model(input_ids=row[None], position_ids=places[None], packed_lengths=lengths)
        return output.last_hidden_state[0], lengths

    def _padded(self, token_ids: list[Sequence[int]]) -> tuple[Tensor, list[int]]:
        """Run all texts padded to the longest; return real tokens' states, (total tokens, D)."""
        lengths = [len(ids) for ids in token_ids]
        mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
        padding = self.tokenizer.pad_token_id or 0
        rows = torch.full(mask.shape, padding, dtype=torch.long)
        rows[mask] = torch.tensor([i for ids in token_ids for i in ids])
        rows, mask = rows.to(self.device), mask.to(self.device)
        output = self.model(input_ids=rows, attention_mask=mask.long())
        return output.last_hidden_state[mask], lengths

    def _pool(self, states: Tensor, lengths: list[int], skipped: list[int] | None) -> Tensor:
        """Turn the states of all tokens, (total tokens, hidden size), into vectors, (B, D).

        skipped: tokens at the beginning of each text that are not pooled
        """
        sizes = torch.tensor(lengths, device=states.device)
        ends = sizes.cumsum(0)
        if self.settings.pooling == "last":
            vectors = states[ends - 1]
        else:
            starts = ends - sizes
            if skipped is not None:
                starts = torch.minimum(starts + torch.tensor(skipped).to(starts), ends - 1)
            vectors = states[starts] if self.settings.pooling == "cls" else _means(
                states, starts, ends, sizes
            )  # fmt: skip
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = self.dense(vectors)
        return nn.functional.normalize(vectors, dim=-1) if self.settings.normalize else vectors

    def _dense_layers(self) -> list[Dense]:
        return [layer for layer in self.dense if isinstance(layer, Dense)]

    def _prefix(self, kind: Kind) -> str:
        return self.settings.query_prefix if kind == "query" else self.settings.passage_prefix

    def _count_prompt(self, kind: Kind) -> int:
        """Return how many tokens a kind's prefix takes, what comes before it included."""
        prefix = self._prefix(kind)
        if prefix and prefix not in self._prompt_tokens:
            ids = _token_ids(self, [prefix])[0]
            ends_special = ids[-1] in self.tokenizer.all_special_ids
            self._prompt_tokens[prefix] = len(ids) - ends_special
        return self._prompt_tokens.get(prefix, 0)

    def save(self, folder: Path) -> None:
        """Write a sentence-transformers folder; with one tower, AutoModel loads it as well."""
        folder.mkdir(parents=True, exist_ok=True)
        routes = {"": self}
        if self.passage_tower is not None:
            routes = {"query": self, "document": self.passage_tower}
        towers = [tower._write(folder, route) for route, tower in routes.items()]
        write_layout(folder, self.settings, towers)

    def _write(self, folder: Path, route: str) -> list[Module]:
        """Write this tower alone; return its modules."""
        modules = tower_modules(self.settings, len(self.dense), route)
        for _, path in modules:
            (folder / path).mkdir(exist_ok=True)
        place = folder / modules[0][1]
        implementation = self.model.config._attn_implementation
        if implementation == packing.IMPLEMENTATION:
            self.model.set_attn_implementation("sdpa")
        try:
            self.model.save_pretrained(place)
        finally:
            self.model.set_attn_implementation(implementation)
        self.tokenizer.model_max_length = self.settings.max_length
        self.tokenizer.save_pretrained(place)
        write_tower(folder, self.settings, int(self.model.config.hidden_size), route)
        paths = [path for kind, path in modules if kind == "Dense"]
        for layer, path in zip(self._dense_layers(), paths, strict=True):
            layer.save(folder / path)
        return modules


def _means(states: Tensor, starts: Tensor, ends: Tensor, sizes: Tensor) -> Tensor:
    """Return the mean of the states of each text from its start to its end, (B, hidden size)."""
    owner = torch.repeat_interleave(torch.arange(len(sizes), device=states.device), sizes)
    pooled = ends - starts
    if not torch.equal(pooled, sizes):
        kept = torch.arange(len(states), device=states.device) >= starts[owner]
        states, owner = states[kept], owner[kept]
    total = states.new_zeros(len(sizes), states.shape[1]).index_add(0, owner, states)
    return total / pooled[:, None]


def _token_ids(tower: Encoder, texts: list[str]) -> list[list[int]]:
    """Return the token ids of texts, cut at the tower's limit, never none."""
    if not texts:
        return []
    encoded = tower.tokenizer(
        texts,
        truncation=True,
        max_length=tower.settings.max_length,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # of those longer than the tokenizer says: they are cut, and counted
    )
    known = (tower.tokenizer.eos_token_id, tower.tokenizer.pad_token_id, 0)
    blank = next(i for i in known if i is not None)
    return [ids or [blank] for ids in encoded["input_ids"]]
