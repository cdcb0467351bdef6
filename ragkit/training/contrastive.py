"""An encoder with the contrastive objective on top: from a batch of token ids to a loss."""

from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ragkit.config.training import Contrastive, Distillation
from ragkit.errors import ModelError
from ragkit.models.encoder import Encoder
from ragkit.training.caching import encode_in_chunks
from ragkit.training.candidates import Candidates, Rows, candidates
from ragkit.training.distributed import share_of
from ragkit.training.finite import LossWatch
from ragkit.training.losses import distillation_kl, false_negative_mask, info_nce, margin_mse


class ContrastiveModel(nn.Module):
    """An encoder with the contrastive loss on top, as the Trainer wants it.

    watch: takes note of each loss; who saves or logs something has it checked before
    """

    def __init__(self, encoder: Encoder, loss: Contrastive, watch: LossWatch | None = None) -> None:
        """Put the loss on the encoder.

        Raises:
            ModelError: `matryoshka` names more dimensions than the encoder has.
        """
        super().__init__()
        self.encoder, self.loss, self.watch = encoder, loss, watch or LossWatch()
        self.cuts = _cuts(loss, encoder.dimensions)
        self.register_state_dict_post_hook(_leave_out_aliases)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            _expect_no_aliases
        )

    def forward(
        self,
        token_ids: Sequence[Sequence[int]],
        n_queries: int,
        rows: Rows,
        example_ids: list[str],
        passage_ids: list[str],
        teacher: Tensor | None = None,
        guide: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Encode queries and passages in one pass; return {"loss": scalar}.

        Where several processes train, the mean of their losses is that of all queries over the
        candidates of all, and the mean of their gradients is its gradient.

        token_ids: of B queries, then of P distinct passages
        teacher: (B, P) scores, NaN where there is none
        guide: (B + P, G) another encoder's vectors of the same texts
        """
        if self.loss.cached:
            vectors = encode_in_chunks(self.encoder, token_ids, n_queries, self.loss.chunk_tokens)
        else:
            vectors = self.encoder(token_ids, n_queries)
        with torch.autocast(vectors.device.type, enabled=False):
            who = candidates(rows, self.loss.cross_device)
            sides = _sides(vectors, n_queries, who)
            who = self._without_false_negatives(who, sides, guide)
            loss = vectors.new_zeros(())
            for dimensions, weight in self.cuts:
                part = _cut(sides, dimensions, self.encoder.settings.normalize)
                loss = loss + weight * _loss(part, who, teacher, self.loss)
        self.watch.see(loss, example_ids=example_ids, passage_ids=passage_ids)
        return {"loss": loss}

    def _without_false_negatives(
        self, who: Candidates, sides: "_Sides", guide: Tensor | None
    ) -> Candidates:
        """Leave out what the encoder itself or the guide finds nearer than the positive."""
        if self.loss.false_negative_margin is not None:
            own = _Sides(*(side.detach() for side in sides))
            who = who.without(*_false_negatives(own, who, self.loss.false_negative_margin))
        if self.loss.guide:
            assert guide is not None, "the collator has no guide"
            theirs = _sides(guide, len(who.positive), who)
            who = who.without(*_false_negatives(theirs, who, self.loss.guide.margin))
        return who


class _Sides(NamedTuple):
    """Vectors: this process's queries (B, D), the passages (N, D) and queries (M, D) of all."""

    own: Tensor
    passages: Tensor
    queries: Tensor


def _sides(vectors: Tensor, n_queries: int, who: Candidates) -> _Sides:
    """Exchange the vectors of this process, queries first, with the others'."""
    own, passages = vectors[:n_queries], vectors[n_queries:]
    return _Sides(own, who.passages(passages), who.queries(own))


def _false_negatives(sides: _Sides, who: Candidates, margin: float) -> tuple[Tensor, Tensor]:
    """Return the masks of passages (B, N) and of queries (B, M) that are no negatives."""
    to_passages = sides.own @ sides.passages.T
    to_queries = sides.passages[who.positive] @ sides.queries.T
    theirs = (sides.queries * sides.passages[who.all_positive]).sum(dim=1)
    return (
        false_negative_mask(to_passages, to_passages.gather(1, who.positive[:, None]), margin),
        false_negative_mask(to_queries, theirs[None], margin),
    )


def _aliases(module: nn.Module) -> set[str]:
    """Return the second names of weights that have two, as T5's embeddings do."""
    names = {name for name, _ in module.named_parameters()}
    return {name for name, _ in module.named_parameters(remove_duplicate=False)} - names


def _leave_out_aliases(
    module: nn.Module, state: MutableMapping[str, Any], prefix: str, _: dict[str, Any]
) -> None:
    """Save each weight under one name: safetensors refuses two for the same memory."""
    for name in _aliases(module):
        state.pop(prefix + name, None)


def _expect_no_aliases(module: nn.Module, keys: Any) -> None:
    """Miss no second name when a state is loaded."""
    aliases = tuple(_aliases(module))
    keys.missing_keys[:] = [key for key in keys.missing_keys if not key.endswith(aliases)]


def _cuts(loss: Contrastive, dimensions: int) -> list[tuple[int, float]]:
    """Return how many dimensions the loss is computed on, and what each of these losses weighs."""
    if loss.matryoshka and max(loss.matryoshka) > dimensions:
        raise ModelError(
            f"matryoshka: {max(loss.matryoshka)} dimensions, and the encoder has {dimensions}"
        )
    lengths = loss.matryoshka or [dimensions]
    return list(zip(lengths, loss.matryoshka_weights or [1.0] * len(lengths), strict=True))


def _cut(sides: _Sides, dimensions: int, normalize: bool) -> _Sides:
    """Return the first dimensions of all vectors, of unit length again where they were."""
    if dimensions == sides.own.shape[1]:
        return sides
    parts = (side[:, :dimensions] for side in sides)
    return _Sides(*(nn.functional.normalize(p, dim=1) if normalize else p for p in parts))


def _loss(sides: _Sides, who: Candidates, teacher: Tensor | None, options: Contrastive) -> Tensor:
    """Return the loss of this process's queries at one cut."""
    similarities = sides.own @ sides.passages.T
    loss = info_nce(similarities / options.temperature, who.positive, who.ignore)
    if share := options.passage_share:
        scores = sides.passages[who.positive] @ sides.queries.T / options.temperature
        loss = (1 - share) * loss + share * info_nce(scores, who.own, who.ignore_queries)
    if who.share is not None:
        loss = loss * who.share
    if options.distillation is None:
        return loss
    assert teacher is not None, "the collator has no teacher's scores"
    taught = _distillation(similarities, who, teacher, options.distillation, options.temperature)
    return options.distillation.contrastive_weight * loss + options.distillation.weight * taught


def _distillation(
    similarities: Tensor,
    who: Candidates,
    teacher: Tensor,
    options: Distillation,
    temperature: float,
) -> Tensor:
    """Return the distillation term over the candidates of this process's own batch."""
    columns = slice(who.first, who.first + teacher.shape[1])
    scores = similarities[:, columns] / (options.student_temperature or temperature)
    wanted = teacher / options.teacher_temperature
    if options.method == "kl":
        loss = distillation_kl(scores, wanted)
    else:
        loss = margin_mse(scores, wanted, who.local_positive)
    if who.share is None:
        return loss
    return loss * share_of((~teacher.isnan()).any(dim=1).sum())
