"""Held-out expressions under the name that experiments know: what asks them is of no learner (`training.learning`)."""

from training.learning.asking import Answerer, Question, Questions, ask, named_figures

__all__ = ["Answerer", "Question", "Questions", "ask", "named_figures"]
