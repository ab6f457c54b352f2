"""What a row of the page is: an element of a paper or its scripts, what ours is, and whether the two are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

# The paper or script gives no value for a setting that ours needs.
NOT_STATED: Final = "not stated"

Verdict = Literal["exact", "declared"]


@dataclass(frozen=True)
class Element:
    """A setting, formula, order or threshold.

    Attributes:
        name: What it is.
        source: Section or equation of the paper, or the script.
        says: What the paper or the script says.
        settings: By path, its value there, or `NOT_STATED`; the page reads ours from the presets. A path of a PPT
            training begins with `ppt:`, of its recipes with `recipes:`.
        ours: What ours does in `paper`, where no setting says it.
        others: What it does in `base` and `tiny`, where that is another and no setting says it.
        proof: Of an exact element, `<file>::<test>`: it fails if the code departs.
        reason: Of a declared element, why ours is another.
        arms: Arms of the measurement that say what a difference changes.
        unmeasured: Of a declared element without an arm, why it cannot be measured.
    """

    name: str
    source: str
    says: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    ours: str = ""
    others: str = ""
    proof: str = ""
    reason: str = ""
    arms: tuple[str, ...] = ()
    unmeasured: str = ""

    @property
    def verdict(self) -> Verdict:
        """`declared` where a reason is given."""
        return "declared" if self.reason else "exact"


@dataclass(frozen=True)
class Section:
    """Elements that belong together; `other_presets` heads the column beside `paper`."""

    title: str
    elements: tuple[Element, ...]
    other_presets: str = "`base`, `tiny`"
