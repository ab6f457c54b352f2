"""Images that must not be in training data: rules by name, COCO id, sha256 and perceptual hash, and their matchers.

A rule by name decides from an image's key, before the image is planned. A rule by content needs its bytes.
`training/exclusions` builds the rules; planning, datasets, exports and imports apply them. The digest of a rule's
values is in a run's header and is compared on a resume: `name_value` and `coco_id` must not change.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from pseudoris.schemas.errors import ImageError
from pseudoris.schemas.header_sections import EXCLUDED, ExclusionRule, RuleKind
from pseudoris.schemas.ids import IMAGE_ID_HEX_DIGITS, image_id, sha256_hex

# COCO's names, of all years, and what is made from them: REFER's pickles append the number of an object, our exports
# the id of the image. The digits are always 12: a photograph `120.jpg` has no COCO id.
_COCO_NAME: Final = re.compile(
    rf"(?:COCO_[a-z]+\d{{4}}_)?(\d{{12}})(?:_(?:\d{{1,12}}|[0-9a-f]{{{IMAGE_ID_HEX_DIGITS}}}))?\.[A-Za-z0-9]{{1,5}}"
)
_EXPORTED_NAME: Final = re.compile(rf"(?:.*_)?([0-9a-f]{{{IMAGE_ID_HEX_DIGITS}}})\.[A-Za-z0-9]{{1,5}}")


def coco_id(name: str) -> int | None:
    """Return the COCO id in a file's name; None for names of another form, whatever digits they contain."""
    match = _COCO_NAME.fullmatch(name)
    return None if match is None else int(match[1])


def name_value(entry: str) -> str:
    """Return a listed name, path or COCO id as a rule's value: of a COCO id the digits, without leading zeros."""
    path = entry.replace("\\", "/").strip("/")
    number = int(path) if path.isascii() and path.isdecimal() else coco_id(path.rpartition("/")[2])
    return path if number is None else str(number)


@dataclass(frozen=True, slots=True)
class Exclusions:
    """Rules in the order that they were given in, and the values of each: names, COCO ids or hex digits. It pickles."""

    rules: tuple[ExclusionRule, ...] = ()
    values: tuple[frozenset[str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rules)

    def __add__(self, other: Exclusions) -> Exclusions:
        return Exclusions(self.rules + other.rules, self.values + other.values)

    def of_kinds(self, *kinds: RuleKind) -> Iterator[tuple[int, ExclusionRule, frozenset[str]]]:
        """Yield number, rule and values of the rules of these kinds."""
        for number, (rule, values) in enumerate(zip(self.rules, self.values, strict=True)):
            if rule.kind in kinds:
                yield number, rule, values

    def without(self, rules: Iterable[ExclusionRule]) -> Exclusions:
        """Return the rules that are not among `rules`, which were applied before."""
        known = {rule.identity for rule in rules}
        pairs = zip(self.rules, self.values, strict=True)
        return sum((Exclusions((rule,), (held,)) for rule, held in pairs if rule.identity not in known), Exclusions())


def exclusion(
    kind: RuleKind,
    name: str,
    values: Iterable[str],
    *,
    files: dict[str, str] | None = None,
    settings: dict[str, JsonValue] | None = None,
) -> Exclusions:
    """Return one rule; arguments as in `ExclusionRule`. There must be a value."""
    held = frozenset(values)
    digest = sha256_hex("\n".join(sorted(held)).encode())
    rule = ExclusionRule(
        kind=kind, name=name, files=files or {}, settings=settings or {}, num_values=len(held), values_sha256=digest
    )
    return Exclusions((rule,), (held,))


class _NameIndex:
    """Finds what names a key: one look-up, whatever the number of values. Each value has a number; the first counts."""

    def __init__(self, numbered: Iterable[tuple[int, str]]) -> None:
        self._names: dict[str, int] = {}
        self._coco_ids: dict[int, int] = {}
        self._image_ids: dict[str, int] = {}
        for number, value in numbered:
            if value.isascii() and value.isdecimal():
                self._coco_ids.setdefault(int(value), number)
                continue
            self._names.setdefault(value, number)
            # Our exports name a file by the id of its image.
            if match := _EXPORTED_NAME.fullmatch(value):
                self._image_ids.setdefault(match[1], number)

    def __bool__(self) -> bool:
        return bool(self._names or self._coco_ids)

    def numbers(self, key: str) -> list[int]:
        """Return the numbers of the values that name a key."""
        folders = key_path(key).split("/")
        found = [self._names.get("/".join(folders[start:])) for start in range(len(folders))] if self._names else []
        number = coco_id(folders[-1]) if self._coco_ids else None
        found.append(None if number is None else self._coco_ids.get(number))
        found.append(self._image_ids.get(image_id(key)) if self._image_ids else None)
        return [each for each in found if each is not None]


class KeyMatcher:
    """Finds the first rule by name that excludes a key; other rules are ignored."""

    def __init__(self, exclusions: Exclusions) -> None:
        listed = exclusions.of_kinds("refer", "names")
        self._listed = _NameIndex((number, value) for number, _, values in listed for value in values)
        self._only = [
            (number, _NameIndex(enumerate(sorted(values)))) for number, _, values in exclusions.of_kinds("only")
        ]

    def __bool__(self) -> bool:
        return bool(self._listed or self._only)

    def matched(self, key: str) -> tuple[int | None, list[int]]:
        """Return the number of the first rule that excludes an image, None if none does, and what names it of `only`.

        Values of `only` are numbered in their order.

        A listed name is that of the file; a listed path must be the end of the key's path, by whole folders. Rows of a
        table have no name.

        Args:
            key: Percent-encoded key relative to SOURCE.
        """
        named = [(number, index.numbers(key)) for number, index in self._only]
        missed = [number for number, found in named if not found]
        return min([*missed, *self._listed.numbers(key)], default=None), [each for _, found in named for each in found]

    def rule_of(self, key: str) -> int | None:
        """Return the number of the first rule that excludes an image, None if none does."""
        return self.matched(key)[0]


class ContentMatcher:
    """Finds the first rule by content that excludes an image; other rules are ignored."""

    def __init__(self, exclusions: Exclusions) -> None:
        self._rules = exclusions.rules
        self._digests: dict[str, int] = {}
        for number, _, values in exclusions.of_kinds("sha256"):
            for value in values:
                self._digests.setdefault(value, number)
        self._hashes: list[tuple[int, int, NDArray[np.uint64]]] = [
            (
                number,
                cast("int", rule.settings["max_distance"]),
                np.array([int(value, 16) for value in sorted(values)], np.uint64),
            )
            for number, rule, values in exclusions.of_kinds("phash")
        ]

    @property
    def has_hashes(self) -> bool:
        """Whether it needs the perceptual hash of an image."""
        return bool(self._hashes)

    def __bool__(self) -> bool:
        return bool(self._digests or self._hashes)

    def rule_of(self, sha256: str, phash: str | None = None) -> int | None:
        """Return the number of the first rule that excludes an image, None if none does; hashes are hex digits."""
        found = [self._digests[sha256]] if sha256 in self._digests else []
        if phash is not None:
            bits = np.uint64(int(phash, 16))
            found += [number for number, most, listed in self._hashes if np.bitwise_count(listed ^ bits).min() <= most]
        return min(found, default=None)

    def check(self, sha256: str, phash: str | None = None) -> None:
        """Raises `ImageError` (excluded) for an image that a rule excludes; arguments as for `rule_of`."""
        number = self.rule_of(sha256, phash)
        if number is not None:
            raise ImageError(EXCLUDED, self._rules[number].reason)


class RecordedImageMatcher:
    """Finds the first rule that excludes an image by what a run's images table says of it: its key and its sha256.

    Rules by perceptual hash are ignored.
    """

    def __init__(self, exclusions: Exclusions) -> None:
        self._keys, self._contents = KeyMatcher(exclusions), ContentMatcher(exclusions)

    def rule_of(self, key: str, sha256: str | None) -> int | None:
        """Return the number of a rule that excludes an image, None if none does; `sha256` is None if it is unknown."""
        by_key = self._keys.rule_of(key)
        return self._contents.rule_of(sha256) if by_key is None and sha256 is not None else by_key


def key_path(key: str) -> str:
    """Return a key's path, decoded, as it is in SOURCE; a member of a tar is below it.

    To compare and to show, not to open: a back-slash is a `/` there.
    """
    return unquote_to_bytes(key.replace("!", "/")).decode("utf-8", "replace").replace("\\", "/")


def all_rules(exclusions: Sequence[Exclusions]) -> Exclusions:
    """Return the rules of all, each once, in order."""
    return functools.reduce(lambda found, each: found + each.without(found.rules), exclusions, Exclusions())
