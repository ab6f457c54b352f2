"""The raters of a server: what each has answered, and which questions the others leave to each."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.verdict_file import VerdictFile, check_answer, check_rater
from pseudoris.audit.verdict_lines import Answer, MissedLine, Point, UndoLine, VerdictLine, utc_now
from pseudoris.audit.web.blind_clicks import BlindClicks
from pseudoris.audit.web.questions import Questions
from pseudoris.schemas.errors import ConfigError

# A rater who went for a coffee keeps the question; one who closed the browser gives it to the others.
_VIEW_S: Final = 600.0


class Rater:
    """One rater: the file, the blind clicks, and the question in view."""

    def __init__(self, audit: AuditFolder, name: str) -> None:
        """Open the rater's files; see `VerdictFile.open`."""
        self.file = VerdictFile.open(audit.path, name, audit.known)
        self.clicks = BlindClicks(audit.path, name)
        self.view: str | None = None
        self.viewed_s = 0.0

    def has(self, question: str, now_s: float) -> bool:
        """Return whether the rater has answered the question or is looking at it."""
        answers = self.file.answers
        is_viewed = self.view == question and now_s - self.viewed_s < _VIEW_S
        return is_viewed or question in answers.verdicts or question in answers.missed

    def standing(self) -> dict[str, Any]:
        """Return what the rater's page needs to go on: the answers that stand, oldest first, and the blind clicks."""
        answers = self.file.answers
        given: list[VerdictLine | MissedLine] = [*answers.verdicts.values(), *answers.missed.values()]
        lines = sorted(given, key=lambda line: line.utc)
        return {"answers": [line.model_dump() for line in lines], "clicks": self.clicks.clicks}


class Raters:
    """All raters of an audit; a rater's files are opened at the first request."""

    def __init__(self, audit: AuditFolder, questions: Questions, clock: Callable[[], float] = time.monotonic) -> None:
        """Open the files that are there.

        Raises:
            ConfigError: One is refused; see `read_answers`.
        """
        self._audit = audit
        self._questions = questions
        self._clock = clock
        self._raters: dict[str, Rater] = {}
        for answers in audit.answers():
            self.rater(answers.rater)

    def rater(self, name: str) -> Rater:
        """Return a rater.

        Raises:
            ConfigError: The name cannot be that of a file, or the file is refused.
        """
        if check_rater(name) not in self._raters:
            self._raters[name] = Rater(self._audit, name)
        return self._raters[name]

    def open(self, name: str) -> dict[str, Any]:
        """Return what the page of a rater starts with."""
        return {**self.rater(name).standing(), "taken": self.taken(name)}

    def look(self, name: str, question: str) -> dict[str, list[str]] | None:
        """Return the `outlines` of a question, and note that it is in view: the others get another one.

        None if there is no such question. The outlines are empty if the rater has yet to click what the text means.
        Two raters may choose a question at the same time; the second gets `taken` instead, which then holds it.
        """
        rater = self.rater(name)
        outlines = self._questions.outlines(question)
        if outlines is None:
            return None
        taken = self.taken(name)
        if question in taken:
            return {"taken": taken}
        rater.view, rater.viewed_s = question, self._clock()
        return {"outlines": [] if question in self._questions.blind - rater.clicks.clicks.keys() else outlines}

    def record(self, name: str, answer: Answer) -> list[str]:
        """Write an answer; when it is on disk, return what others leave to nobody else, as `taken`.

        Raises:
            ConfigError: The audit does not ask this, or the file cannot be written.
        """
        check_answer(answer, "the answer", self._audit.known)
        rater = self.rater(name)
        change: dict[str, Any] = {"utc": utc_now()}
        if isinstance(answer, VerdictLine):
            change["click"] = rater.clicks.clicks.get(answer.pair)
        rater.file.append(type(answer).model_validate({**answer.model_dump(), **change}))
        rater.view = None
        if isinstance(answer, UndoLine):
            # It is asked again at once: of this rater.
            rater.view, rater.viewed_s = answer.pair or answer.image, self._clock()
        return self.taken(name)

    def keep_click(self, name: str, pair: str, click: Point | None) -> None:
        """Write a blind click; return when it is on disk.

        Raises:
            ConfigError: There is no such pair, or the file cannot be written.
        """
        if pair not in self._audit.known.pairs:
            raise ConfigError(f"the audit has no pair {pair!r}")
        self.rater(name).clicks.keep(pair, click)

    def taken(self, name: str) -> list[str]:
        """Return the questions that enough other raters have answered or are looking at."""
        others = [rater for other, rater in self._raters.items() if other != name]
        now_s = self._clock()
        needed = self._questions.num_needed.items()
        return [question for question, number in needed if sum(r.has(question, now_s) for r in others) >= number]

    def num_answers(self) -> dict[str, int]:
        """Return the number of answers that stand, by rater."""
        answers = {name: rater.file.answers for name, rater in self._raters.items()}
        return {name: len(each.verdicts) + len(each.missed) for name, each in answers.items()}
