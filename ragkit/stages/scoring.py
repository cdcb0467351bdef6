"""From answers to score sheets: which question has which score."""

from collections.abc import Mapping, Sequence
from typing import Any

from ragkit.data.schema import Example, Passage
from ragkit.evaluation.answers import abstention, bleu, score_answer
from ragkit.evaluation.grounding import citation_scores, figure_precision, k_precision
from ragkit.rag.answerers import Answer

ANSWER_METRICS = ("em", "f1", "rouge_1", "rouge_2", "rouge_l")
GROUNDING_METRICS = ("k_precision", "figure_precision", "citation_precision", "citation_recall")

Sheet = dict[str, dict[str, float]]  # of each metric: question id to score


def score_answers(
    examples: Sequence[Example], answers: Mapping[str, Answer], refusing_scores: bool
) -> Sheet:
    """Return the scores of the answers of questions that have a reference.

    refusing_scores: an unanswerable question has an F1 too, 1 for a refusal and else 0
    """
    sheet: Sheet = {}
    for example in examples:
        answer = answers.get(example.id)
        if answer is None:
            continue
        scores: dict[str, float] = {}
        if example.answerable and example.answers:
            scores = score_answer(
                answer.text, example.answers, answerable=True, abstained=answer.abstained
            )
        elif not example.answerable and refusing_scores:
            scores = {"f1": float(answer.abstained)}
        for name in ANSWER_METRICS:
            if name in scores:
                sheet.setdefault(name, {})[example.id] = scores[name]
    return sheet


def score_grounding(
    examples: Sequence[Example],
    answers: Mapping[str, Answer],
    given: Mapping[str, Sequence[Passage]],
    gold: bool,
) -> Sheet:
    """Return the scores of answers against their passages; citations where any answer has one.

    gold: the passages given are the positives, and to cite them is no merit
    """
    sheet: Sheet = {}
    cites = not gold and any(answer.passage_ids for answer in answers.values())
    for example in examples:
        answer = answers.get(example.id)
        if answer is None or answer.abstained:
            continue
        texts = [p.rendered for p in given[example.id]]
        scores: dict[str, float | None] = {
            "k_precision": k_precision(answer.text, texts),
            "figure_precision": figure_precision(answer.text, texts),
        }
        if cites and example.positive_ids:
            scores |= citation_scores(answer.passage_ids, example.positive_ids)
        for name, score in scores.items():
            if score is not None:
                sheet.setdefault(name, {})[example.id] = score
    return sheet


def whole_set(examples: Sequence[Example], answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Return what is measured over the set as a whole: BLEU and abstention."""
    examples = [e for e in examples if e.id in answers]
    scored = [e for e in examples if e.answerable and e.answers]
    found = abstention(
        [e.answerable for e in examples], [answers[e.id].abstained for e in examples]
    )
    texts, references = [answers[e.id].text for e in scored], [e.answers for e in scored]
    return {
        "bleu": bleu(texts, references) if scored else None,
        "abstention_precision": found["precision"],
        "abstention_recall": found["recall"],
    }
