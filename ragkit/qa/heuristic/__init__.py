"""The heuristic teacher: questions and answers from a passage by rules, without a model."""

from ragkit.qa.heuristic.questions import Pair, generate

__all__ = ["Pair", "generate"]
