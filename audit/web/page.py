"""The page on which a rater judges."""

from __future__ import annotations

from typing import Any, Final

from pseudoris.viewer.image_cards import embedded_json
from pseudoris.viewer.pages import iter_page

GENERATOR: Final = "pseudoris audit"
# Concatenated in this order into one script.
SCRIPTS: Final = ("sha256", "storage", "dom", "queue", "stage", "marks", "session", "questions", "keys", "start")


def judging_page(plan: dict[str, Any]) -> str:
    """Return the page; `plan` is that of `Questions`."""
    return "".join(
        iter_page(
            "judge.html.j2",
            {"plan": embedded_json(plan), "mark": GENERATOR},
            styles=("base", "judge"),
            scripts=SCRIPTS,
            room=__package__ or "",
        )
    )
