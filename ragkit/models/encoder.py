"""Encoders: a transformer, its pooling and its prefixes, from texts to vectors.

Reads sentence-transformers folders and plain Hugging Face models, writes sentence-transformers
folders. The order in which a corpus is encoded, and where the vectors go, is
`ragkit.retrieval.encode`'s business; gradients and losses are `ragkit.training`'s.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ragkit.config.blocks import EncoderOptions
from ragkit.data.files import read_json, write_json
from ragkit.errors import ModelError
from ragkit.models import packing
from ragkit.models.resolve import resolve_model

Kind = Literal["query", "passage"]
_POOLINGS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_NO_LIMIT = 1_000_000  # tokenizers without a limit say 1e30


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """What turns a transformer into an encoder; part of every saved model."""

    pooling: str = "mean"
    normalize: bool = True
    query_prefix: str = ""
    passage_prefix: str = ""
    max_length: int = 512


class Encoder(nn.Module):
    """A transformer with pooling: texts to vectors of D dimensions."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: EncoderSettings,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.position_offset = packing.position_offset(model.config)
        if self.position_offset is not None:
            model.set_attn_implementation(packing.IMPLEMENTATION)
        if getattr(model, "pooler", None) is not None:
            model.pooler.requires_grad_(False)  # unused: we pool ourselves, as the folder says

    @property
    def dimensions(self) -> int:
        """D, the length of a vector."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def fingerprint(self) -> str:
        """Return a hash of weights, settings and vocabulary: equal for equal vectors."""
        digest = hashlib.sha256(repr(self.settings).encode())
        digest.update(json.dumps(sorted(self.tokenizer.get_vocab().items())).encode())
        for name, weights in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weights.detach().cpu().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @classmethod
    def load(cls, reference: str, options: EncoderOptions | None = None) -> Self:
        """Load an encoder by hub name, folder or run directory; fp32, on the CPU, ready to encode.

        Options that are set override what the model's folder says.

        Raises:
            ModelError: no such model, or modules that ragkit does not know.
        """
        options = options or EncoderOptions()
        folder = resolve_model(reference)
        try:
            model = AutoModel.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=options.trust_remote_code
            )
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=options.trust_remote_code
            )
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"{reference}: cannot be loaded: {reason}") from error
        settings = _read_settings(Path(folder), model, tokenizer)
        wanted = options.model_dump(include=set(EncoderSettings.__dataclass_fields__))
        settings = replace(settings, **{k: v for k, v in wanted.items() if v is not None})
        if settings.max_length > _positions(model):
            raise ModelError(
                f"max_length: {settings.max_length} is more than the {_positions(model)} tokens "
                f"that {reference} has positions for"
            )
        return cls(model, tokenizer, settings).eval()

    def tokenize(self, texts: Sequence[str], kind: Kind) -> list[list[int]]:
        """Return the token ids of each text with its prefix, cut at the encoder's limit."""
        settings = self.settings
        prefix = settings.query_prefix if kind == "query" else settings.passage_prefix
        if not texts:
            return []
        with _quiet_tokenizer():
            encoded = self.tokenizer(
                [prefix + text for text in texts],
                truncation=True,
                max_length=settings.max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
        return list(encoded["input_ids"])

    def forward(self, token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Encode tokenised texts together.

        token_ids: B lists of token ids
        Returns: (B, D) vectors in fp32, in the order given
        """
        order = sorted(range(len(token_ids)), key=lambda i: len(token_ids[i]))
        ordered = [token_ids[i] for i in order]
        hidden, lengths = (
            self._packed(ordered) if self.position_offset is not None else self._padded(ordered)
        )
        vectors = self._pool(hidden.float(), lengths)
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

    def _pool(self, states: Tensor, lengths: list[int]) -> Tensor:
        """Turn the states of all tokens, (total tokens, D), into one vector a text, (B, D)."""
        sizes = torch.tensor(lengths, device=states.device)
        ends = sizes.cumsum(0)
        if self.settings.pooling == "mean":
            owner = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), sizes)
            total = states.new_zeros(len(lengths), states.shape[1]).index_add(0, owner, states)
            vectors = total / sizes[:, None]
        else:
            vectors = states[ends - sizes if self.settings.pooling == "cls" else ends - 1]
        return nn.functional.normalize(vectors, dim=-1) if self.settings.normalize else vectors

    def save(self, folder: Path) -> None:
        """Write a sentence-transformers folder, which AutoModel loads as well."""
        settings = self.settings
        folder.mkdir(parents=True, exist_ok=True)
        implementation = self.model.config._attn_implementation
        self.model.set_attn_implementation("sdpa")
        try:
            self.model.save_pretrained(folder)
        finally:
            self.model.set_attn_implementation(implementation)
        self.tokenizer.model_max_length = settings.max_length
        self.tokenizer.save_pretrained(folder)
        package = "sentence_transformers.models"
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
        modules += [("2_Normalize", "Normalize")] if settings.normalize else []
        write_json(
            folder / "modules.json",
            [
                {"idx": i, "name": str(i), "path": path, "type": f"{package}.{name}"}
                for i, (path, name) in enumerate(modules)
            ],
        )
        write_json(folder / "1_Pooling" / "config.json", self._pooling_config())
        (folder / "2_Normalize").mkdir(exist_ok=True)
        write_json(
            folder / "sentence_bert_config.json",
            {"max_seq_length": settings.max_length, "do_lower_case": False},
        )
        write_json(
            folder / "config_sentence_transformers.json",
            {
                "prompts": {
                    "query": settings.query_prefix,
                    "document": settings.passage_prefix,
                },
                "default_prompt_name": None,
                "similarity_fn_name": "cosine" if settings.normalize else "dot",
            },
        )

    def _pooling_config(self) -> dict[str, Any]:
        names = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}
        flags = {f"pooling_mode_{n}": k == self.settings.pooling for k, n in names.items()}
        return {"word_embedding_dimension": self.dimensions, **flags}


def _read_settings(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> EncoderSettings:
    """Read pooling, normalisation, prompts and length from a sentence-transformers folder.

    A plain Hugging Face model gets mean pooling, unit vectors, no prefixes.
    """
    limits = [_positions(model), min(int(tokenizer.model_max_length), _NO_LIMIT)]
    files = _hub_files(folder)
    if "modules.json" not in files:
        return EncoderSettings(max_length=min(limits))
    modules = [m["type"].rsplit(".", 1)[-1] for m in read_json(files["modules.json"])]
    if unknown := set(modules) - {"Transformer", "Pooling", "Normalize"}:
        raise ModelError(
            f"{folder}: modules.json has {', '.join(sorted(unknown))}, unknown to ragkit"
        )
    config = read_json(files["sentence_bert_config.json"]) if "sentence_bert_config.json" in files \
        else {}  # fmt: skip
    if config.get("max_seq_length"):
        limits.append(int(config["max_seq_length"]))
    named = "config_sentence_transformers.json"
    prompts = read_json(files[named]).get("prompts", {}) if named in files else {}
    if "1_Pooling/config.json" not in files:
        raise ModelError(f"{folder}: modules.json names a pooling without 1_Pooling/config.json")
    pooling = read_json(files["1_Pooling/config.json"])
    if any(prompts.values()) and not pooling.get("include_prompt", True):
        raise ModelError(f"{folder}: include_prompt: false (pooling without the prompt) is unknown")
    return EncoderSettings(
        pooling=_read_pooling(folder, pooling),
        normalize="Normalize" in modules,
        query_prefix=prompts.get("query", ""),
        passage_prefix=prompts.get("document", prompts.get("passage", "")),
        max_length=min(limits),
    )


def _positions(model: PreTrainedModel) -> int:
    """Return how many tokens a model has positions for.

    In models of RoBERTa's kind the first positions of the table are those of padding.
    """
    positions = int(getattr(model.config, "max_position_embeddings", 0) or _NO_LIMIT)
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return positions if padding is None else positions - int(padding) - 1


def _hub_files(folder: Path) -> dict[str, Path]:
    """Return the settings files of a local folder or a hub model (fetched once, then cached)."""
    names = (
        "modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
        "config_sentence_transformers.json",
    )  # fmt: skip
    if folder.is_dir():
        return {name: folder / name for name in names if (folder / name).is_file()}
    from transformers.utils.hub import cached_file

    found = {
        name: cached_file(str(folder), name, _raise_exceptions_for_missing_entries=False)
        for name in names
    }
    return {name: Path(path) for name, path in found.items() if path}


def _read_pooling(folder: Path, config: dict[str, Any]) -> str:
    """Return mean, cls or last from a Pooling module's config, of old or new form."""
    mode = config.get("pooling_mode")
    if mode is None:
        flags = [k for k, v in config.items() if k.startswith("pooling_mode_") and v is True]
        modes = [f.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
                 for f in flags]  # fmt: skip
        mode = modes[0] if len(modes) == 1 else ",".join(modes)
    if not isinstance(mode, str) or mode not in _POOLINGS:
        raise ModelError(f"{folder}: pooling {json.dumps(mode)} is unknown to ragkit")
    return _POOLINGS[mode]


class _quiet_tokenizer:
    """Silences the warning that a text is longer than the model allows: it is cut, and counted."""

    def __enter__(self) -> None:
        self.logger = logging.getLogger("transformers.tokenization_utils_base")
        self.level = self.logger.level
        self.logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self.logger.setLevel(self.level)
