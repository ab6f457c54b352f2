"""Which texts are true of the things of `everyday_world`, by arithmetic of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pseudoris.primitives.english import plural_of

# Height and width of an image, in pixels.
SIZE: Final = (240, 320)


@dataclass(frozen=True)
class Thing:
    """A thing or a part of one: what it is called, the ways to say each of its attributes, and where it is."""

    kind: str
    names: tuple[str, ...]  # the basic name, synonyms, its own narrower name, wider ones
    looks: Mapping[str, Sequence[str]]  # by slot, the ways to say its value
    also: frozenset[str] = frozenset()  # what may be said of it besides: the scenery, the colour of its clothes
    depth: float = 0.5  # 1 is nearest
    x: float = 0.5  # of the centre of its visible pixels, as a share of the picture's width; so y, of its height
    y: float = 0.5

    @property
    def is_whole(self) -> bool:
        """Whether it is no part."""
        return self.names[0] == self.kind

    def is_called(self, phrase: str) -> bool:
        """Return whether a phrase, of one or of several, is true of it."""
        told = {_plain(way) for way in (*self.also, *(way for ways in self.looks.values() for way in ways))}
        for name in (*self.names, *map(plural_of, self.names)):
            before, found, after = f" {_plain(phrase)} ".partition(f" {name} ")
            if found and _is_covered(before.strip(), told) and _is_covered(after.strip(), told):
                return True
        return False


def _plain(text: str) -> str:
    return " ".join(word for word in text.split() if word not in ("a", "an", "the", "its", "and", "wearing", "in"))


def _is_covered(text: str, told: set[str]) -> bool:
    return not text or any(
        _is_covered(text[len(way) :].strip(), told) for way in told if f"{text} ".startswith(f"{way} ")
    )


_AXES: Final = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "upper": (0, -1), "lower": (0, 1)}
_BESIDE: Final = {"to the left of": "left", "to the right of": "right", "above": "top", "below": "bottom"}
_NUMBERS: Final = ("all", "one", "two", "three", "four", "five", "six")
_RANKS: Final = ("first", "second", "third", "fourth")
_SIDE: Final = f"({'|'.join(_AXES)})"
_FORMS: Final = (
    rf"the (?P<side>{_SIDE})(most)? of the (?P<number>\w+) (?P<phrase>.+)",
    rf"the (?P<side>{_SIDE})most (?P<phrase>.+)",
    rf"the (?P<rank>second|third|fourth) (?P<phrase>.+) from the (?P<side>{_SIDE})",
    rf"the (?P<phrase>.+?) (?P<beside>{'|'.join(_BESIDE)}) the (?P<anchor>.+)",
    rf"the (?P<phrase>.+) (on|at) the (?P<third>{_SIDE})",
    r"the (?P<phrase>.+) in (?P<depth>front|the back)",
    r"(the )?(?P<number>all|two|three|four|five|six) (?P<phrase>.+)",
    r"the (?P<phrase>.+)",
)
# A lead below this share of a side is no order.
_GAP: Final = 0.02


def is_right(text: str, targets: Sequence[int | None], things: Sequence[Thing]) -> bool:
    """Return whether a text is true of its targets and of no other thing; None is a mask of no thing.

    The target must be at a place surely, and a rival counts that may be there.
    """
    said = next(found for form in _FORMS if (found := re.fullmatch(form, text))).groupdict()
    fitting = {number for number, thing in enumerate(things) if thing.is_called(said["phrase"])}
    if len(targets) != 1:
        is_counted = said.get("number") in (None, "all") or _NUMBERS.index(said["number"]) == len(targets)
        return is_counted and fitting == {*targets}
    surely, maybe = _placed(said, fitting, things)
    return targets[0] in surely and maybe <= {*targets}


def _placed(said: Mapping[str, str], fitting: set[int], things: Sequence[Thing]) -> tuple[set[int], set[int]]:
    """Return which of the fitting things surely are at a place, and which may be."""
    if said.get("anchor"):
        anchors = [number for number, thing in enumerate(things) if thing.is_called(said["anchor"])]
        steps = {each: _step(things[each], things[anchors[0]], _BESIDE[said["beside"]]) for each in fitting if anchors}
        sure = {each for each, (ahead, across) in steps.items() if ahead > _GAP and across <= ahead}
        maybe = {each for each, (ahead, across) in steps.items() if ahead > -_GAP and across <= 2 * (ahead + _GAP)}
        return (sure, maybe - {*anchors}) if len(anchors) == 1 else (set(), fitting)
    side = said.get("third") or said.get("side")
    along = {each: _along(things[each], side) if side else things[each].depth for each in fitting}
    if said.get("third"):
        return {each for each in fitting if along[each] > 0.15}, {each for each in fitting if along[each] > 0}
    if side is None and said.get("depth") is None:
        return fitting, fitting
    ordered = sorted(fitting, key=lambda each: along[each], reverse=said.get("depth") != "the back")
    there = {*ordered[_RANKS.index(said.get("rank") or "first") :][:1]}
    is_counted = said.get("number") is None or _NUMBERS.index(said["number"]) == len(fitting)
    close = {each for each in fitting for one in there if abs(along[each] - along[one]) < _GAP}
    return there, close if is_counted else fitting | {-1}


def _along(thing: Thing, side: str) -> float:
    return (thing.x - 0.5) * _AXES[side][0] + (thing.y - 0.5) * _AXES[side][1]


def _step(thing: Thing, anchor: Thing, side: str) -> tuple[float, float]:
    """Return the ways toward a side of an anchor and across, in picture widths."""
    dx, dy = thing.x - anchor.x, (thing.y - anchor.y) * SIZE[0] / SIZE[1]
    return dx * _AXES[side][0] + dy * _AXES[side][1], abs(dy if _AXES[side][0] else dx)
