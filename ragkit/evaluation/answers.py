"""Scores of generated answers against reference answers.

Works on strings. Means and confidence intervals are left to `significance`, judging by a model to
`judge`, and whether a prediction is an abstention to whoever made it.

Words are what stands between white space or punctuation: text of a script without spaces is one
long word, so there token F1 and ROUGE come close to exact match.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise, zip_longest
from typing import Any

from ragkit.data.nearduplicates import overlap_f1
from ragkit.errors import DataError

# A combining mark after the letter makes it another letter, which `\b` does not see.
_ARTICLES = re.compile(r"\b(a|an|the)\b(?![\u0300-\u036f])")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[^\W_]+")


@lru_cache(maxsize=1024)  # exact match and F1 ask for the same texts one after the other
def normalize_answer(text: str) -> str:
    """Lower the case, drop ASCII punctuation and English articles, and squeeze white space.

    This is the normalisation of SQuAD v1.1's evaluation script (Rajpurkar et al., 2016), after NFC
    so that two spellings of one accented letter are equal.
    """
    unpunctuated = _lower(text).translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", unpunctuated).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 where the prediction equals a reference after normalisation, else 0.0.

    Where nothing is left of either ("!", "The"), they must be equal as they were written.
    """
    return _best(_exact_match, prediction, references)


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Return SQuAD's F1 over the normalised words, with the best of the references.

    Where nothing is left of the prediction or the reference, it is their exact match.
    """
    return _best(_token_f1, prediction, references)


def rouge(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """Return the F-measures `rouge_1`, `rouge_2` and `rouge_l`, each of its best reference.

    As in the rouge-score package with Porter stemming (Lin, 2004), on ASCII text exactly. The
    package drops every letter outside a-z, so that a perfect answer in Russian would score 0; here
    such letters are kept, as words without stemming.
    """
    _require_references(references)
    ours = _stems(prediction)
    scores = [_rouge(ours, _stems(reference)) for reference in references]
    best = map(max, zip(*scores, strict=True))
    return dict(zip(("rouge_1", "rouge_2", "rouge_l"), best, strict=True))


def bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return sacrebleu's corpus BLEU, from 0 to 100 (Papineni et al., 2002; Post, 2018).

    Args:
        predictions: one text a question.
        references: the reference texts of each question, one or more that are not empty.

    Raises:
        DataError: if there are no predictions, the lengths differ or a question has no reference.
    """
    import sacrebleu

    _require_equal_lengths(predictions=predictions, references=references)
    if not predictions:
        raise DataError("BLEU needs at least one prediction")
    texts = [[text for text in group if text.strip()] for group in references]
    for i, group in enumerate(texts):
        if not group:
            raise DataError(f"references[{i}]: BLEU needs a reference that is not empty")
    # sacrebleu takes one list per reference position and passes over None. It does not pass over
    # an empty text, whatever its documentation says, and takes it for the closest in length.
    streams: list[Sequence[Any]] = list(zip_longest(*texts))
    return float(sacrebleu.corpus_bleu(list(predictions), streams).score)


def score_answer(
    prediction: str, references: Sequence[str], *, answerable: bool, abstained: bool
) -> dict[str, float]:
    """Score one prediction.

    Returns:
        `abstained` and `answerable` as 0.0 or 1.0, and for an answerable question also `em`, `f1`,
        `rouge_1`, `rouge_2` and `rouge_l`, which are 0.0 where the prediction abstained.

    Raises:
        DataError: if the question is answerable and has no reference.
    """
    flags = {"abstained": float(abstained), "answerable": float(answerable)}
    if not answerable:
        return flags
    _require_references(references)
    if abstained:
        return dict.fromkeys(("em", "f1", "rouge_1", "rouge_2", "rouge_l"), 0.0) | flags
    return {
        "em": exact_match(prediction, references),
        "f1": token_f1(prediction, references),
        **rouge(prediction, references),
        **flags,
    }


def abstention(answerable: Sequence[bool], abstained: Sequence[bool]) -> dict[str, float | None]:
    """Return how well abstentions find the unanswerable questions.

    Returns:
        `precision`: the share of unanswerable questions among those abstained on;
        `recall`: the share of abstentions among the unanswerable questions;
        each None where there are none to take a share of.

    Raises:
        DataError: if the lengths differ.
    """
    _require_equal_lengths(answerable=answerable, abstained=abstained)
    unanswerable = len(answerable) - sum(map(bool, answerable))
    declined = sum(map(bool, abstained))
    right = sum(bool(b) and not a for a, b in zip(answerable, abstained, strict=True))
    return {
        "precision": right / declined if declined else None,
        "recall": right / unanswerable if unanswerable else None,
    }


def _best(score: Callable[[str, str], float], prediction: str, references: Sequence[str]) -> float:
    _require_references(references)
    return max(score(prediction, reference) for reference in references)


def _exact_match(prediction: str, reference: str) -> float:
    ours, theirs = normalize_answer(prediction), normalize_answer(reference)
    if not ours and not theirs:
        return float(prediction.strip() == reference.strip())
    return float(ours == theirs)


def _token_f1(prediction: str, reference: str) -> float:
    ours, theirs = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not ours or not theirs:
        return _exact_match(prediction, reference)
    shared = (Counter(ours) & Counter(theirs)).total()
    # The harmonic mean of shared / len(ours) and shared / len(theirs).
    return 2 * shared / (len(ours) + len(theirs))


def _rouge(ours: list[str], theirs: list[str]) -> tuple[float, float, float]:
    """Return ROUGE-1, ROUGE-2 and ROUGE-L of two lists of stems."""
    if not ours or not theirs:
        return 0.0, 0.0, 0.0
    words = (Counter(ours) & Counter(theirs)).total()
    two = (Counter(pairwise(ours)) & Counter(pairwise(theirs))).total()
    total = len(ours) + len(theirs)
    # The harmonic means of shared / len(ours) and shared / len(theirs).
    return 2 * words / total, 2 * two / max(total - 2, 1), overlap_f1(ours, theirs)


def _stems(text: str) -> list[str]:
    return [_stem(word) if word.isascii() else word for word in _WORD.findall(_lower(text))]


@lru_cache(maxsize=1 << 17)  # the words of a corpus, each stemmed once
def _stem(word: str) -> str:
    return str(_rouge_tokenizer().tokenize(word)[0])


@lru_cache(maxsize=1)
def _rouge_tokenizer() -> Any:
    # rouge-score brings NLTK, which takes a second to import.
    from rouge_score.tokenizers import DefaultTokenizer  # type: ignore[import-untyped]

    return DefaultTokenizer(use_stemmer=True)


def _lower(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.lower())


def _require_references(references: Sequence[str]) -> None:
    if isinstance(references, str):
        raise DataError(f"references is one text, {references!r}; a list of texts is needed")
    if not references:
        raise DataError(
            "no reference answer; give the example `answers`, or set `answerable: false`"
        )


def _require_equal_lengths(**sequences: Sequence[object]) -> None:
    if len({len(values) for values in sequences.values()}) > 1:
        sizes = ", ".join(f"{name} {len(values)}" for name, values in sequences.items())
        raise DataError(f"lengths differ: {sizes}; one value a question is needed in each")
