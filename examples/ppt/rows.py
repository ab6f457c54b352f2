"""The rows of PPT's tables as data: what each asks, and what was trained for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from experiments.ppt.ablation_rows import PAPER, TRAININGS, Training
from pseudoris.training.evaluation.answerers import CLIP_AND_SAM, NOUN, SENTENCE


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Attributes:
        title: In the table.
        model: A name of `pseudoris evaluate --model` that needs no training, or "".
        training: Else what is trained: other data, or other phases.
        phase: The phase of it whose end is asked.
    """

    title: str
    model: str = ""
    training: Training | None = None
    phase: str = ""


_OF_PAPER: Final = {row: (training, phase) for training in TRAININGS for phase, row in training.phases.items()}
FULL: Final = _OF_PAPER["5"][0]
_PPT: Final = Row("PPT", "", *_OF_PAPER["5"])
ABLATION: Final[Mapping[str, Row]] = {
    number: Row(f"{number}: {title}", "", *_OF_PAPER[number])
    if number in _OF_PAPER
    else Row(f"{number}: {title}", CLIP_AND_SAM)
    for number, (title, _) in PAPER.items()
}
TABLES: Final[Mapping[str, Mapping[str, Row]]] = {
    "tables": {
        "ppt": _PPT,
        "clip-sentence": Row("no training: CLIP among SAM's masks, whole text", SENTENCE),
        "clip-noun": Row("no training: CLIP among SAM's masks, first noun phrase", NOUN),
        "clip-sam": Row("no training: CLIP's response prompts SAM", CLIP_AND_SAM),
    },
    "ablation": ABLATION,
    "figure": {"ppt": _PPT},
}
TITLES: Final[Mapping[str, str]] = {
    "tables": "PPT: Tables 1 and 2",
    "ablation": "PPT: Table 3, the ablation on RefCOCO val",
    "figure": "PPT: Figure 3, the points of every query",
}
