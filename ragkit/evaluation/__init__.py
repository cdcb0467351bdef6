"""Scores of rankings and answers, and how sure one can be of them."""
