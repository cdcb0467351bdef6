"""Cross-encoders: a question and a passage read together, to one score.

Loads what `sentence_transformers.CrossEncoder` loads: its own folders and sequence classifiers with
one label. Scores are raw logits: no sigmoid is put on them, whatever the model's folder says, for
differences of logits are what distillation learns and margins are measured in. Which passages are
scored, and what follows, is `ragkit.retrieval`'s business.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from ragkit.config.blocks import Reranker as Options
from ragkit.data.schema import Conversation
from ragkit.errors import ModelError
from ragkit.models.devices import pick_device, use_bf16
from ragkit.models.layouts import DAMAGED
from ragkit.models.loading import positions
from ragkit.models.resolve import resolve_model

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

TOKENS_PER_BATCH = {"cpu": 2_048, "cuda": 65_536, "mps": 16_384}
_SPECIAL = 4  # tokens that a model puts around a pair, at most
_NO_LIMIT = 1_000_000  # tokenizers without a limit say 1e30


class Reranker:
    """A cross-encoder: pairs of texts to one raw logit each."""

    def __init__(self, model: "CrossEncoder", options: Options) -> None:
        self.model, self.options = model, options
        self.device = pick_device(options.device)
        self.budget = options.tokens_per_batch or TOKENS_PER_BATCH[self.device.type]
        model.to(self.device).eval()

    @classmethod
    def load(cls, options: Options) -> Self:
        """Load a cross-encoder by hub name, folder or run directory.

        Raises:
            ModelError: no such model, one that gives no single score, or has too few positions.
        """
        from sentence_transformers import CrossEncoder

        folder = resolve_model(options.model)
        try:
            model = CrossEncoder(
                folder,
                device="cpu",
                max_length=options.max_length,
                trust_remote_code=options.trust_remote_code,
                local_files_only=Path(folder).is_dir(),
                model_kwargs={"dtype": torch.float32},
            )
        except (*DAMAGED, ImportError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelError(f"{options.model}: cannot be loaded: {reason}") from error
        if model.num_labels != 1:
            raise ModelError(
                f"{options.model}: gives {model.num_labels} scores a pair; a reranker gives one (a "
                "cross-encoder, or a sequence classifier with one label)"
            )
        saved = model.config.architectures or []
        if len(model) == 1 and saved and type(model.model).__name__ not in saved:
            raise ModelError(
                f"{options.model}: no cross-encoder but a {', '.join(saved)}; the part of it that "
                "scores pairs would be random numbers"
            )
        most = positions(model.model.base_model)
        if options.max_length and options.max_length > most:
            raise ModelError(
                f"max_length: {options.max_length} is more than the {most} tokens that "
                f"{options.model} has positions for"
            )
        model.max_seq_length = min(int(model.max_seq_length or most), most)
        return cls(model, options)

    def fingerprint(self) -> str:
        """Return a hash of weights, vocabulary, length and precision: equal for equal scores."""
        bf16 = use_bf16(self.options.precision, self.device)
        digest = hashlib.sha256(f"{self.max_length} {bf16}".encode())
        digest.update(json.dumps(sorted(self.model.tokenizer.get_vocab().items())).encode())
        for name, weights in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(weights.detach().cpu().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def max_length(self) -> int:
        """The tokens of a pair, above which the longer text is cut."""
        return min(int(self.model.max_seq_length or _NO_LIMIT), _NO_LIMIT)

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the logit of each (question, passage), in the order given.

        Pairs of like length share a batch; the order of the pairs does not matter. A conversation
        gives up its earliest turns until it leaves half of the room to the passage.
        """
        pairs = self._with_room(pairs)
        scores = [0.0] * len(pairs)
        bf16 = use_bf16(self.options.precision, self.device)
        autocast = (
            torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        )
        for batch in self._batches(pairs):
            with autocast:
                found = self.model.predict(
                    [pairs[i] for i in batch],
                    batch_size=len(batch),
                    activation_fn=nn.Identity(),
                    show_progress_bar=False,
                )
            for i, score in zip(batch, found.tolist(), strict=True):
                scores[i] = score
        return scores

    def _with_room(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        most = self.max_length // 2
        asked = {q for q, _ in pairs if isinstance(q, Conversation)}
        shorter: dict[str, str] = {
            q: q.last_turns(lambda t: self._lengths([t])[0] <= most) for q in asked
        }
        return [(shorter.get(q, q), p) for q, p in pairs]

    def _batches(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Return positions by length, longest first, padded to at most the budget together."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        lengths = dict(zip(texts, self._lengths(texts), strict=True))
        limit = self.max_length
        of = [min(lengths[q] + lengths[p] + _SPECIAL, limit) for q, p in pairs]
        batches: list[list[int]] = []
        size = 0
        for i in sorted(range(len(pairs)), key=lambda i: -of[i]):
            if not batches or len(batches[-1]) == size:
                batches.append([])
                size = max(self.budget // of[i], 1)
            batches[-1].append(i)
        return batches

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, each text counted once however many pairs it is in."""
        if not texts:
            return []
        encoded = self.model.tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return [len(ids) for ids in encoded["input_ids"]]
