"""The page on which a rater judges, for either back end."""

from __future__ import annotations

from typing import Any, Final

from pseudoris.viewer.image_cards import embedded_json
from pseudoris.viewer.pages import iter_page

GENERATOR: Final = "pseudoris audit"
# Concatenated in this order into one script.
_FRONT_END: Final = ("dom", "queue", "stage", "marks", "session", "questions", "keys", "start")
SERVER_SCRIPTS: Final = ("server_back_end", *_FRONT_END)
STATIC_SCRIPTS: Final = ("sha256", "storage_back_end", *_FRONT_END)


def judging_page(plan: dict[str, Any], *, is_static: bool) -> str:
    """Return the page.

    Args:
        plan: `Questions.plan`; of a static page with `outlines`, by question.
        is_static: Whether answers stay in the browser, or go to the page's server.
    """
    return "".join(
        iter_page(
            "judge.html.j2",
            {"plan": embedded_json(plan), "is_static": is_static, "mark": GENERATOR},
            styles=("base", "judge"),
            scripts=STATIC_SCRIPTS if is_static else SERVER_SCRIPTS,
            room=__package__ or "",
            may_connect=not is_static,
        )
    )
