"""Rules for images that must not be in training data, by name, COCO id, sha256 or perceptual hash, and their matcher.

A rule by name decides from an image's key, before the image is planned. A rule by content needs its bytes. Used by
`interchange`, `store`, `pipeline`, `cli`, `pseudoris`: `interchange/exclusions` reads rules from `--exclude`; planning,
datasets, exports and imports apply them. A run's header holds the rules without their values. A resume compares their
digest, so `name_value` and `coco_id` must not change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Annotated, Final, Literal, TypeAlias, cast
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from pseudoris.images.perceptual_hash import HASH_HEX_DIGITS
from pseudoris.images.tiles import Tile
from pseudoris.primitives.errors import ImageError
from pseudoris.schemas.frozen import FrozenModel, Sha256
from pseudoris.schemas.ids import IMAGE_ID_HEX_DIGITS, image_id, sha256_hex
from pseudoris.schemas.run_records import PartRecord, PlanExtension, RunHeader

# Rules by name are `refer`, `names`, and `only`, which leaves out what it does not name. They act on the plan.
# Rules by content are `sha256` and `phash`. They act when an image is read.
RuleKind = Literal["refer", "names", "only", "sha256", "phash"]
NAME_KINDS: Final = frozenset({"refer", "names", "only"})

# These REFER datasets have the same images in different splits. A notice names those for which no rule is given.
SHARED_DATASETS: Final = ("refcoco", "refcoco+", "refcocog")

EXCLUDED: Final = "excluded"


class ExclusionRule(FrozenModel):
    """One rule. Two rules are the same if kind, settings and values are; the files may have moved.

    Attributes:
        kind: What the values are: file names and COCO ids (`refer` from a REFER dataset, `names` from a list, `only` of
            the images that stay), sha256 of encoded bytes, or perceptual hashes.
        name: Last name of the given path, so that a moved file keeps its name in tables.
        files: sha256 by name of the files that were read; empty for a folder of images.
        settings: `splits` of `refer`, all that are held out; `max_distance` of `phash`, in bits, inclusive.
        values_sha256: sha256 of the values, sorted, a line each.
        num_excluded: For a rule by name, images of the last listing that are not planned because of it; each counts for
            the first rule that applies. None for a rule by content: the images are planned, and quarantined as
            `excluded`.
        num_absent: For `only`, values that name no image of the last listing; None if it was not read to its end.
        values: Names, COCO ids or hex digits. Never in a header (`stored_exclusions`).
    """

    kind: RuleKind
    name: str
    files: dict[str, Sha256] = Field(default_factory=dict)
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    num_values: int = Field(ge=1)
    values_sha256: Sha256
    num_excluded: int | None = Field(default=None, ge=0)
    num_absent: int | None = Field(default=None, ge=0)
    values: frozenset[str] = Field(default=frozenset(), exclude=True, repr=False)

    @property
    def option(self) -> str:
        """The option that gives it, with its name."""
        return f"{'--only' if self.kind == 'only' else '--exclude'} {self.name}"

    @property
    def is_by_name(self) -> bool:
        """Whether it acts on the plan."""
        return self.kind in NAME_KINDS

    @property
    def datasets(self) -> list[str]:
        """Names of the REFER datasets that were read, by the folders of their files; none for other kinds."""
        files = self.files if self.kind == "refer" else ()
        return sorted({PurePosixPath(file).parent.name or self.name for file in files})

    @property
    def title(self) -> str:
        """Its name, with the REFER datasets that were read if the name does not say them."""
        return self.name if self.datasets in ([], [self.name]) else f"{self.name} ({', '.join(self.datasets)})"

    @property
    def identity(self) -> str:
        """What must be equal for two sessions to have the same rule, as text for messages."""
        settings = ""
        for name, value in sorted(self.settings.items()):
            settings += f", {name} {'+'.join(map(str, value)) if isinstance(value, list) else value}"
        return f"{self.kind}, {self.num_values:,} values{settings}, sha256 {self.values_sha256[:16]}"

    @property
    def dropped_phrase(self) -> str:
        """What a list of dropped things calls the images that it excludes."""
        if self.kind == "only":
            return f"images that {self.option} does not name"
        return f"images excluded by {self.name} ({self.kind})"

    def absent_phrase(self, num_absent: int, where: str) -> str:
        """Return how many values of `only` name no image of `where`, in words."""
        return f"{num_absent:,} of its {self.num_values:,} names are not in {where}"

    @property
    def reason(self) -> str:
        """The message of an image that it excludes."""
        if self.kind == "phash":
            distance = self.settings.get("max_distance")
            return f"excluded by {self.name}: its perceptual hash is within {distance} bits of a listed one"
        what = "sha256" if self.kind == "sha256" else "name or COCO id"
        return f"excluded by {self.name}: its {what} is listed"


Exclusions: TypeAlias = tuple[ExclusionRule, ...]


class ExclusionRecord(FrozenModel):
    """All rules of a run, and the part that holds their values: the section `exclusions` of a header."""

    rules: Annotated[Exclusions, Field(min_length=1)]
    part: PartRecord


class ListingCounts(FrozenModel):
    """Counts of one listing: `num_excluded` by rule, `num_absent` of `only`. A section of an extension of the plan."""

    num_excluded: tuple[int | None, ...]
    num_absent: int | None = None


def missing_phrase(rules: Exclusions) -> str | None:
    """Return which of `SHARED_DATASETS` no rule reads, in a sentence; None if they read all, or none."""
    read = {name for rule in rules for name in rule.datasets}
    there, missing = ([name for name in SHARED_DATASETS if (name in read) == wanted] for wanted in (True, False))
    if not there or not missing:
        return None
    share, were = ("shares", "was") if len(missing) == 1 else ("share", "were")
    return f"{' and '.join(missing)}, which {share} images with {' and '.join(there)}, {were} not read"


def exclusions_of(header: RunHeader) -> ExclusionRecord | None:
    """Return what the run of `header` excludes; None if nothing. Raises as `RunHeader.section`."""
    return header.section("exclusions", ExclusionRecord)


def plan_files(header: RunHeader) -> tuple[PartRecord, ...]:
    """Return the parts of the plan of `header`, and the file of what the run excludes."""
    excluded = exclusions_of(header)
    return (*header.plan_parts, *([excluded.part] if excluded else []))


def planned_rules(header: RunHeader) -> Exclusions:
    """Return the rules that the run was planned with, or all runs that it was combined from, without their values."""
    first, *others = ((record.rules if (record := exclusions_of(each)) else ()) for each in header.runs)
    shared = [{rule.identity for rule in rules} for rules in others]
    return tuple(rule for rule in first if all(rule.identity in identities for identities in shared))


def summed_rules(header: RunHeader) -> Exclusions:
    """Return each rule of the run, or of one that it was combined from, once; their counts are summed."""
    found: dict[str, ExclusionRule] = {}
    for rule in (rule for each in header.runs if (record := exclusions_of(each)) for rule in record.rules):
        before = found.setdefault(rule.identity, rule)
        if before is not rule and rule.num_excluded is not None:
            total = (before.num_excluded or 0) + rule.num_excluded
            found[rule.identity] = before.model_copy(update={"num_excluded": total})
    return tuple(found.values())


def extended_exclusions(header: RunHeader, extension: PlanExtension) -> dict[str, JsonValue] | None:
    """Return the section of `header` with the counts of an extension, which listed all of SOURCE again."""
    record = exclusions_of(header)
    if record is None or extension.exclusions is None:
        return header.exclusions
    counts = ListingCounts.model_validate(extension.exclusions)
    return ExclusionRecord(rules=with_counts(record.rules, counts), part=record.part).model_dump(mode="json")


def with_counts(rules: Exclusions, counts: ListingCounts) -> Exclusions:
    """Return the rules with the counts of another listing."""
    return tuple(
        rule.model_copy(
            update={"num_excluded": count, "num_absent": counts.num_absent if rule.kind == "only" else None}
        )
        for rule, count in zip(rules, counts.num_excluded, strict=True)
    )


# Matches COCO's file names of all years, and names made from them: REFER's pickles append the number of an object, our
# exports the id of the image. The digits are always 12: a photograph `120.jpg` has no COCO id.
_COCO_NAME: Final = re.compile(
    rf"(?:COCO_[a-z]+\d{{4}}_)?(\d{{12}})(?:_(?:\d{{1,12}}|[0-9a-f]{{{IMAGE_ID_HEX_DIGITS}}}))?\.[A-Za-z0-9]{{1,5}}"
)
_EXPORTED_NAME: Final = re.compile(rf"(?:.*_)?([0-9a-f]{{{IMAGE_ID_HEX_DIGITS}}})\.[A-Za-z0-9]{{1,5}}")


def coco_id(name: str) -> int | None:
    """Return the COCO id in a file's name; None for names of another form, whatever digits they contain."""
    match = _COCO_NAME.fullmatch(name)
    return None if match is None else int(match[1])


def name_value(entry: str) -> str:
    """Return a listed name, path or COCO id as a rule's value: a COCO id as digits without leading zeros."""
    # `find .` prints each path with `./` before it.
    path = re.sub(r"^(\.?/+)+", "", entry.replace("\\", "/")).strip("/")
    number = int(path) if path.isascii() and path.isdecimal() else coco_id(path.rpartition("/")[2])
    return path if number is None else str(number)


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
        kind=kind,
        name=name,
        files=files or {},
        settings=settings or {},
        num_values=len(held),
        values_sha256=digest,
        values=held,
    )
    return (rule,)


def beyond(rules: Iterable[ExclusionRule], known: Iterable[ExclusionRule]) -> Exclusions:
    """Return the rules that are not among `known`, each once, in order."""
    applied, found = {rule.identity for rule in known}, dict[str, ExclusionRule]()
    for rule in rules:
        if rule.identity not in applied:
            found.setdefault(rule.identity, rule)
    return tuple(found.values())


class _NameIndex:
    """Finds the values that name a key, by look-ups. If values repeat, the first number counts."""

    def __init__(self, numbered: Iterable[tuple[int, str]]) -> None:
        self._names: dict[str, int] = {}
        self._coco_ids: dict[int, int] = {}
        self._image_ids: dict[str, int] = {}
        for number, value in numbered:
            if value.isascii() and value.isdecimal():
                self._coco_ids.setdefault(int(value), number)
                continue
            self._names.setdefault(value, number)
            # Our exports name a file after its image's id, so such a name also excludes the image with this id.
            if match := _EXPORTED_NAME.fullmatch(value):
                self._image_ids.setdefault(match[1], number)

    def numbers(self, key: str) -> list[int]:
        tile = Tile.named(key)
        found = [self._image_ids.get(image_id(key)) if self._image_ids else None]
        for each in [key] if tile is None else [key, tile.picture]:
            folders = key_path(each).split("/")
            starts = range(len(folders)) if self._names else ()
            found += (self._names.get("/".join(folders[start:])) for start in starts)
            if self._coco_ids and (number := coco_id(folders[-1])) is not None:
                found.append(self._coco_ids.get(number))
        return [each for each in found if each is not None]


class ExclusionMatcher:
    """Finds the first rule that excludes an image: by its key, by its content, or by both as a run's table has them.

    `has_names` tells whether a rule acts on the plan, `has_hashes` whether a rule needs perceptual hashes.
    """

    def __init__(self, rules: Exclusions) -> None:
        self.has_names = any(rule.is_by_name for rule in rules)
        numbered = list(enumerate(rules))
        self._rules = rules
        self._listed = _NameIndex(
            (number, value) for number, rule in numbered if rule.kind in ("refer", "names") for value in rule.values
        )
        self._only = [
            (number, _NameIndex(enumerate(sorted(rule.values)))) for number, rule in numbered if rule.kind == "only"
        ]
        # The rules are reversed, so that a digest that several rules list counts for the first of them.
        self._digests = {
            value: number for number, rule in reversed(numbered) if rule.kind == "sha256" for value in rule.values
        }
        self._hashes: list[tuple[int, int, NDArray[np.uint64]]] = [
            (
                number,
                cast("int", rule.settings["max_distance"]),
                np.array([int(value, 16) for value in sorted(rule.values)], np.uint64),
            )
            for number, rule in numbered
            if rule.kind == "phash"
        ]
        self.has_hashes = bool(self._hashes)

    def matched(self, key: str) -> tuple[int | None, list[int]]:
        """Return the first rule by name that excludes a key, by number or None, and the values of `only` that name it.

        Values of `only` are numbered in their order. A listed name is that of the file; a listed path must be the end
        of the key's path, by whole folders. Rows of a table have no name; a tile has its picture's besides.
        """
        named = [(number, index.numbers(key)) for number, index in self._only]
        missed = [number for number, found in named if not found]
        return min([*missed, *self._listed.numbers(key)], default=None), [each for _, found in named for each in found]

    def by_content(self, *marks: str | None) -> int | None:
        """Return the number of the first rule by content that excludes an image or None.

        Its `marks` are sha256 and perceptual hashes, of itself and of what it is a tile of, in hex digits.
        """
        found = [self._digests[mark] for mark in marks if mark in self._digests]
        for mark in (each for each in marks if each is not None and len(each) == HASH_HEX_DIGITS):
            bits = np.uint64(int(mark, 16))
            found += [number for number, most, listed in self._hashes if np.bitwise_count(listed ^ bits).min() <= most]
        return min(found, default=None)

    def of_recorded(
        self, key: str, sha256: str | None, wanted: set[int] | None = None, *, picture_sha256: str | None = None
    ) -> ExclusionRule | None:
        """Return the rule that excludes an image of a run's images table; rules by perceptual hash are ignored.

        `wanted` gets the numbers of the values of `only` that name the image. `picture_sha256` is that of its picture,
        if it is a tile.
        """
        number, named = self.matched(key)
        if wanted is not None:
            wanted.update(named)
        if number is None:
            number = self.by_content(sha256, picture_sha256)
        return None if number is None else self._rules[number]

    def check(self, *marks: str | None) -> None:
        """Raises `ImageError` (excluded) for an image that a rule by content excludes; as `by_content`."""
        number = self.by_content(*marks)
        if number is not None:
            raise ImageError(EXCLUDED, self._rules[number].reason)


def key_path(key: str) -> str:
    """Return a key's path in SOURCE, decoded, to compare and to show, not to open: a back-slash becomes a `/`.

    A member of a tar is below the tar.
    """
    return unquote_to_bytes(key.replace("!", "/")).decode("utf-8", "replace").replace("\\", "/")
