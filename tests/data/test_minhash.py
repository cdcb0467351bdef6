"""Near-duplicates among many texts: against the exact Jaccard, and what must not be merged."""

import itertools
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.data.minhash import (
    NearDuplicates,
    group_near_duplicates,
    signature,
    similarity,
)
from ragkit.data.nearduplicates import figures, jaccard, shingles
from ragkit.data.schema import Passage

VOCABULARY = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
TEXT = "The pump starts when the valve opens and stops when the tank of the device is full."
CJK = "水泵在阀门打开时启动并在设备水箱装满时停止请先检查电源然后按下按钮直到指示灯亮起"


def passages(*texts: str) -> list[Passage]:
    return [Passage(str(i), text) for i, text in enumerate(texts)]


def edited(rng: random.Random, text: list[str], edits: int) -> list[str]:
    text = list(text)
    for _ in range(edits):
        text[rng.randrange(len(text))] = rng.choice(VOCABULARY)
    return text


@settings(deadline=None, max_examples=80)
@given(st.lists(st.sampled_from(VOCABULARY), max_size=60), st.integers(0, 30), st.integers(1, 3))
def test_the_estimate_is_near_the_exact_similarity(tokens: list[str], cut: int, n: int) -> None:
    other = tokens[cut:]
    exact = jaccard(shingles(" ".join(tokens), n), shingles(" ".join(other), n))
    estimate = float(similarity(signature(tokens, n), signature(other, n)))
    assert estimate == pytest.approx(exact, abs=0.2)  # five standard deviations


@pytest.mark.parametrize("n", [1, 2, 3])
def test_estimates_are_right_on_average_and_within_a_few_hundredths(n: int) -> None:
    rng = random.Random(n)
    errors = []
    for _ in range(300):
        text = rng.choices(VOCABULARY, k=rng.randrange(4, 150))
        other = edited(rng, text, rng.randrange(0, len(text) // 4 + 1))
        exact = jaccard(shingles(" ".join(text), n), shingles(" ".join(other), n))
        errors.append(float(similarity(signature(text, n), signature(other, n))) - exact)
    assert abs(np.mean(errors)) < 0.005
    assert np.std(errors) < 0.042  # at a third in common it is 0.039, elsewhere less


def test_pairs_above_the_threshold_are_found_and_pairs_below_are_not() -> None:
    rng = random.Random(5)
    texts: list[str] = []
    for _ in range(150):
        text = rng.choices(VOCABULARY, k=rng.randrange(40, 150))
        texts += [" ".join(text), " ".join(edited(rng, text, rng.randrange(0, 9)))]
    grouped = {frozenset(group) for group in group_near_duplicates(passages(*texts))}
    above, below = [], []
    for i, j in itertools.combinations(range(len(texts)), 2):
        exact = jaccard(shingles(texts[i]), shingles(texts[j]))
        found = any({str(i), str(j)} <= group for group in grouped)
        if exact >= 0.85:
            above.append(found)
        elif exact < 0.75:
            below.append(found)
    assert len(above) > 40
    assert np.mean(above) > 0.97
    assert sum(below) <= 1


def test_groups_are_in_the_order_of_the_corpus_and_join_what_is_linked() -> None:
    rng = random.Random(2)
    chain = [rng.choices(VOCABULARY, k=120)]
    for _ in range(6):
        chain.append(edited(rng, chain[-1], 2))
    texts = [" ".join(text) for text in chain]
    assert jaccard(shingles(texts[0]), shingles(texts[-1])) < 0.75
    found = group_near_duplicates(passages(TEXT, *texts, "Alone.", TEXT))
    assert found == [["0", "9"], ["1", "2", "3", "4", "5", "6", "7"]]


def test_the_groups_do_not_depend_on_the_order_of_the_passages() -> None:
    rng = random.Random(3)
    bases = [rng.choices(VOCABULARY, k=120) for _ in range(20)]
    corpus = passages(*(" ".join(edited(rng, b, 2)) for b in bases for _ in range(4)))
    first = {frozenset(group) for group in group_near_duplicates(corpus)}
    assert first
    rng.shuffle(corpus)
    assert {frozenset(group) for group in group_near_duplicates(corpus)} == first


def test_many_copies_of_one_text_are_one_group() -> None:
    [group] = group_near_duplicates(Passage(str(i), TEXT) for i in range(3000))
    assert group == [str(i) for i in range(3000)]


def test_texts_that_differ_in_a_figure_are_not_duplicates() -> None:
    guide = f"{TEXT} Set it to {{}}. {TEXT} It can stay outside."
    corpus = passages(*(guide.format(x) for x in ("1.5 bar", "5.1 bar", "15 bar", "1.5 bar")))
    assert group_near_duplicates(corpus) == [["0", "3"]]


def test_one_text_under_the_titles_of_two_devices_is_not_a_duplicate() -> None:
    corpus = [Passage("a", TEXT, "Pump 100"), Passage("b", TEXT, "Pump 200"), Passage("c", TEXT)]
    assert group_near_duplicates(corpus) == []
    assert group_near_duplicates([*corpus, Passage("d", TEXT, "The pump")]) == [["c", "d"]]


def test_figures_are_whole_words_with_their_decimals() -> None:
    text = "At 1.5 bar (M8-bolt, 230V) since 2024-05-01, see and/or Fig. 7. 電圧220ボルト"
    assert figures(text) == {"1.5", "m8-bolt", "230v", "2024-05-01", "7", "220"}


def test_text_without_spaces_is_compared_by_its_characters() -> None:
    assert group_near_duplicates(passages(CJK * 2, CJK * 2 + "。", CJK[20:])) == [["0", "1"]]
    assert group_near_duplicates(passages(CJK + "220伏特", CJK + "110伏特")) == []


def test_texts_without_words_are_compared_by_their_symbols() -> None:
    assert group_near_duplicates(passages("", "***", "", "-- >", "***")) == [["0", "2"], ["1", "4"]]
    assert group_near_duplicates([]) == []
    assert group_near_duplicates(passages(TEXT)) == []


def test_questions_are_kept_unless_one_that_was_kept_is_nearly_the_same() -> None:
    kept = NearDuplicates(0.7)
    questions = (
        "How do I start the pump?",
        "Which fuse does the 12 V socket need?",
        "How do I start the PUMP",
        "Which fuse does the 24 V socket need?",
        "Which fuse, does the 24 V socket need?",
        "",
        "",
    )
    assert [kept.first_like(q) for q in questions] == [None, None, 0, None, 2, None, 3]


def test_kept_questions_are_found_before_and_after_they_are_indexed() -> None:
    rng = random.Random(7)
    questions = [" ".join(rng.choices(VOCABULARY, k=12)) for _ in range(3000)]
    kept = NearDuplicates(0.8, shingle=2)
    assert {kept.first_like(q) for q in questions} == {None}
    assert [kept.first_like(q) for q in questions] == list(range(3000))


def test_signatures_are_the_same_in_every_process() -> None:
    script = (
        "import sys; from ragkit.data.minhash import signature; "
        "sys.stdout.write(signature(sys.argv[1].split()).tobytes().hex())"
    )
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", script, TEXT],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == signature(TEXT.split()).tobytes().hex()


def test_a_long_text_that_is_hashed_in_parts_is_hashed_right() -> None:
    tokens = [f"w{i}" for i in range(5000)]
    assert float(similarity(signature(tokens), signature(tokens * 2))) > 0.98
    assert float(similarity(signature(tokens), signature(tokens[:4000]))) == pytest.approx(
        0.8, abs=0.08
    )
    assert float(similarity(signature(tokens), signature(tokens[4000:]))) == pytest.approx(
        0.2, abs=0.13
    )


def test_titles_that_differ_in_a_figure_can_be_left_out_of_account() -> None:
    text = " ".join(TEXT.split() * 3)
    passages = [Passage("a", text, title="Guide 1.2"), Passage("b", text, title="Guide 1.3")]
    assert group_near_duplicates(passages) == []
    assert group_near_duplicates(passages, figures_tell=False) == [["a", "b"]]
