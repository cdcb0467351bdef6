"""Decoding: the tokens that follow many prompts, in one batch whose rows come and go.

transformers' `generate` prepares a batch (masks, positions, the encoder's states, processors of
logits); its own loop would go on with all rows until the last of them is finished. Here a finished
row leaves, and where keys and values are plain tensors, other prompts take its place.
Which tokens end a text, and what text they are, is the caller's business.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache, DynamicCache, LogitsProcessorList, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.utils.generic import ModelOutput

_REFILL = 4  # a quarter of the rows has to be free before others begin: each time is a pass more
_ATTENDING = {DynamicLayer, DynamicSlidingWindowLayer}


@dataclass
class Row:
    """A prompt and what follows it.

    position: of the prompt among all
    dice: what its tokens are drawn by, nobody else's; None: the likeliest are taken
    processors: what changes its logits, by its own tokens: penalties, top_p and the like
    """

    position: int
    prompt: Sequence[int]
    dice: random.Random | None = None
    tokens: list[int] = field(default_factory=list)
    done: bool = False
    processors: LogitsProcessorList = field(default_factory=LogitsProcessorList)


# from a model, rows, and the token that fills them up, to what `generate` is given of them
Reading = Callable[[Any, Sequence[Row], int], dict[str, Any]]


def decode(
    model: PreTrainedModel,
    rows: Sequence[Row],
    size: int,
    is_done: Callable[[Row], bool],
    read: Reading | None = None,
    **options: Any,
) -> Iterator[list[Row]]:
    """Yield the rows that got a token, after every step, until all are done.

    size: rows at most that are worked on together
    is_done: asked of each row that got a token
    read: what of the prompts of rows `generate` is given; None: their tokens, padded
    options: of `generate`: how much, and how tokens are chosen
    """
    waiting, batch = deque(rows), None
    while waiting or batch:
        free = size - (len(batch.rows) if batch else 0)
        if waiting and (batch is None or (batch.can_grow and free * _REFILL >= size)):
            begun = _begin(model, [waiting.popleft() for _ in range(min(free, len(waiting)))],
                           read or _padded, options)  # fmt: skip
            yield begun.step(model, is_done)
            batch = _joined(batch, begun.left())
        else:
            assert batch is not None
            yield batch.step(model, is_done)
            batch = batch.left()


@dataclass
class _Batch:
    """Rows that are worked on together.

    ids: (B, L) their tokens, those of decoders padded on the left; the last is still to be read
    state: what the model is called with besides
    """

    rows: list[Row]
    ids: Tensor
    state: dict[str, Any]
    is_decoder: bool
    begun: bool = False

    @property
    def can_grow(self) -> bool:
        """Whether other rows may join: what is kept of the prompts can be padded."""
        cache = self.state.get("past_key_values") if self.is_decoder else None
        return cache is not None and all(type(layer) is DynamicLayer for layer in cache.layers)

    @torch.inference_mode()
    def step(self, model: Any, is_done: Callable[[Row], bool]) -> list[Row]:
        """Give each row a token; return the rows."""
        new = 1 if self.begun else None
        inputs = model.prepare_inputs_for_generation(
            self.ids, next_sequence_length=new, is_first_iteration=not self.begun, **self.state
        )
        output = model(**inputs, return_dict=True)
        self.state = model._update_model_kwargs_for_generation(
            output, self.state, is_encoder_decoder=not self.is_decoder
        )
        chosen = _choose(self._processed(output.logits[:, -1].float()), self.rows)
        self.ids, self.begun = torch.cat([self.ids, chosen[:, None]], dim=1), True
        for row, token in zip(self.rows, chosen.tolist(), strict=True):
            row.tokens.append(token)
            row.done = is_done(row)
        return self.rows

    def _processed(self, scores: Any) -> Any:
        """Return the logits, each row's changed by its own tokens, without padding."""
        if not any(row.processors for row in self.rows):
            return scores
        ids: Any = self.ids
        starts = [
            self.ids.shape[1] - len(row.prompt) - len(row.tokens) if self.is_decoder else 0
            for row in self.rows
        ]
        return torch.cat(
            [
                row.processors(ids[i : i + 1, start:], scores[i : i + 1])
                for i, (row, start) in enumerate(zip(self.rows, starts, strict=True))
            ]
        )

    @torch.inference_mode()
    def left(self) -> "_Batch | None":
        """Return the batch of the rows that are not done, if there are any."""
        going = [i for i, row in enumerate(self.rows) if not row.done]
        if len(going) < len(self.rows) and going:
            kept = torch.tensor(going, device=self.ids.device)
            self.rows = [self.rows[i] for i in going]
            self.ids = self.ids[kept]
            self.state = {key: _selected(value, kept) for key, value in self.state.items()}
        return self if going else None


@torch.inference_mode()
def _begin(model: Any, rows: list[Row], read: Reading, options: dict[str, Any]) -> _Batch:
    """Have `generate` prepare a batch, and stop there."""
    is_decoder = not model.config.is_encoder_decoder
    given = read(model, rows, options["pad_token_id"])

    def prepared(_: Any, input_ids: Tensor, **state: Any) -> _Batch:
        config = state.pop("generation_config")
        del state["logits_processor"], state["stopping_criteria"]  # of a batch that never changes
        state["attention_mask"] = given["attention_mask"]  # left out where nothing is padded
        for row in rows:
            row.processors = model._get_logits_processor(
                config,
                len(row.prompt) if is_decoder else input_ids.shape[1],
                torch.tensor([row.prompt], device=model.device),
                device=model.device,
            )
        return _Batch(rows, input_ids, state, is_decoder)

    made: _Batch = model.generate(**given, **_cache(model), **options, custom_generate=prepared)
    return made


def _padded(model: Any, rows: Sequence[Row], fill: int) -> dict[str, Tensor]:
    """Return the tokens of prompts, those of a decoder padded on the left, and where they are."""
    longest, left = max(len(row.prompt) for row in rows), not model.config.is_encoder_decoder
    tokens, mask = [], []
    for row in rows:
        pad, own = [0] * (longest - len(row.prompt)), [1] * len(row.prompt)
        filled = [fill] * len(pad)
        tokens.append([*filled, *row.prompt] if left else [*row.prompt, *filled])
        mask.append(pad + own if left else own + pad)
    return {
        "input_ids": torch.tensor(tokens, device=model.device),
        "attention_mask": torch.tensor(mask, device=model.device),
    }


def _cache(model: Any) -> dict[str, Cache]:
    """Return the cache of a decoder whose layers all attend, so that rows may join it.

    Those that look back only so far would forget what they need no more; their mask does the same.
    """
    if model.config.is_encoder_decoder:
        return {}
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    return {"past_key_values": DynamicCache()} if kinds <= _ATTENDING else {}


@torch.inference_mode()
def _joined(old: _Batch | None, new: _Batch | None) -> _Batch | None:
    """Return one batch of both; what all rows have as padding goes first."""
    if old is None or new is None:
        return old or new
    for batch in (old, new):
        batch_cut = int(batch.state["attention_mask"].any(dim=0).int().argmax())
        batch.ids = batch.ids[:, batch_cut:]
        batch.state = {key: _without(value, batch_cut) for key, value in batch.state.items()}
    state = {key: _side_by_side(value, new.state[key]) for key, value in old.state.items()}
    ids = _side_by_side(old.ids, new.ids)
    return _Batch([*old.rows, *new.rows], ids, state, is_decoder=True, begun=True)


def _choose(scores: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return a token of each row: the likeliest, or one drawn by the row's own dice.

    scores: (B, V) logits, those that may not be drawn -inf
    """
    dice = [row.dice for row in rows if row.dice]
    if not dice:
        return scores.argmax(dim=-1)
    device = scores.device
    if device.type == "mps":
        scores = scores.cpu()  # it has no float64, and sums of many shares need it
    shares = scores.double().softmax(dim=-1).cumsum(dim=-1)
    points = shares.new_tensor([[d.random()] for d in dice]) * shares[:, -1:]
    return torch.searchsorted(shares, points, right=True).squeeze(1).to(device)


def _selected(value: Any, rows: Any) -> Any:
    """Return some rows of a part of the state."""
    if isinstance(value, Cache):
        value.reorder_cache(rows)
        return value
    if isinstance(value, ModelOutput):
        return type(value)(**{key: part[rows] for key, part in value.items()})
    return value[rows] if isinstance(value, Tensor) else value


def _without(value: Any, columns: int) -> Any:
    """Return a part of the state without its first columns."""
    if isinstance(value, Cache):
        layers: Any = value.layers
        for layer in layers:
            layer.keys, layer.values = layer.keys[:, :, columns:], layer.values[:, :, columns:]
        return value
    return value[:, columns:] if isinstance(value, Tensor) else value


def _side_by_side(a: Any, b: Any) -> Any:
    """Return the rows of two parts of the state, the shorter ones padded on the left."""
    if isinstance(a, Cache):
        layers: Any = zip(a.layers, b.layers, strict=True)
        for one, other in layers:
            one.keys = _stacked(one.keys, other.keys, 2)
            one.values = _stacked(one.values, other.values, 2)
        return a
    return _stacked(a, b, 1) if isinstance(a, Tensor) else a


def _stacked(a: Tensor, b: Tensor, dim: int) -> Tensor:
    most = max(a.shape[dim], b.shape[dim])
    after = [0, 0] * (a.ndim - 1 - dim)
    return torch.cat([F.pad(t, (*after, most - t.shape[dim], 0)) for t in (a, b)])
