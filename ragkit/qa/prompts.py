"""What a teacher is asked, and how its answer is read.

One request asks for questions of one style about one passage. The answer is JSON; what models wrap
around it (fences, remarks) is taken off.
"""

import json
import re
from dataclasses import dataclass

from ragkit.data.schema import Passage

STYLES = {
    "factoid": "questions that ask for one fact: a value, a name, a limit, a condition",
    "how-to": "questions of somebody with a goal or a problem: how, why, what happens if; describe "
    "the situation in the user's own words rather than in those of the passage",
    "keyword": "search-box queries: three to seven words, no question mark",
}
_INSTRUCTIONS = """\
You write training data for a search system over technical and business documents.
Write {n} {style}.
Each must be answerable from the passage alone, and specific enough that no other passage of the \
documents answers it: name the product, version or topic where it matters. Write as a user who \
has not read the passage would: never mention "the passage", "the text" or "the document". Give \
each a complete answer in one or two sentences, every fact taken from the passage.
Return JSON only: {{"pairs": [{{"question": "...", "answer": "..."}}]}}"""
_OPENING = re.compile(r"[{\[]")


@dataclass(frozen=True, slots=True)
class Request:
    """Questions of one style about one passage."""

    passage: Passage
    style: str

    @property
    def key(self) -> tuple[str, str]:
        """Passage id and style, which name a request within a run."""
        return self.passage.id, self.style


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question with its answer, as a teacher gave them."""

    question: str
    answer: str


def chat(request: Request, n: int) -> list[dict[str, str]]:
    """Return the chat messages that ask for `n` pairs."""
    instructions = _INSTRUCTIONS.format(n=n, style=STYLES[request.style])
    return [
        {"role": "system", "content": instructions},
        {"role": "user", "content": f"Passage:\n\n{request.passage.rendered}"},
    ]


def parse(response: str) -> list[QuestionAnswer]:
    """Read the pairs out of a teacher's answer.

    Raises:
        ValueError: no JSON in it, or not of the form that was asked for.
    """
    problem = "no JSON in the teacher's answer"
    for match in _OPENING.finditer(response):
        try:
            value, _ = json.JSONDecoder().raw_decode(response, match.start())
        except json.JSONDecodeError as error:
            problem = f"broken JSON in the teacher's answer: {error.msg}"
            continue
        pairs = value.get("pairs") if isinstance(value, dict) else value
        if isinstance(pairs, list) and (pairs or isinstance(value, dict)):
            return [_pair(pair) for pair in pairs]
        problem = "no list of pairs in the teacher's answer"
    raise ValueError(problem)


def dump(pairs: list[QuestionAnswer]) -> str:
    """Return pairs as the JSON that `parse` reads."""
    return json.dumps(
        {"pairs": [{"question": p.question, "answer": p.answer} for p in pairs]}, ensure_ascii=False
    )


def _pair(pair: object) -> QuestionAnswer:
    if not isinstance(pair, dict) or not isinstance(pair.get("question"), str):
        raise ValueError("a pair without a question in the teacher's answer")
    answer = pair.get("answer", "")
    return QuestionAnswer(
        pair["question"].strip(), answer.strip() if isinstance(answer, str) else ""
    )
