"""Receipts: which generation of which shard is committed, and its parts; their sums, and the digest of a whole run.

Only receipts decide which parts count. A run writes them through `commit.py`; every room that reads runs reads them
here, most through `OpenRun`. A later release must compute the same root digest of a stored run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import tee
from typing import Any, Final

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, check_number
from pseudoris.primitives.threads import map_in_threads
from pseudoris.schemas.ids import SHARD_NAME, shard_name
from pseudoris.schemas.run_records import (
    COUNTED_BY_NAME,
    HEADER_NAME,
    RECEIPTS_FOLDER,
    CombinedRun,
    PartRecord,
    Receipt,
    RunHeader,
)
from pseudoris.schemas.shard import MASK_RULES
from pseudoris.store.runs.header import header_digests, parse_record

_NAME: Final = re.compile(rf"{SHARD_NAME}\.json")
# This many threads read receipts, because a read of a kilobyte from a bucket is nearly all latency.
READERS: Final = 16
# Above this share a run is told of its wide decisions.
_MANY_WIDE: Final = 0.05
# Above this share of empty images a run is told which rule took their masks.
_MANY_EMPTY: Final = 0.05
_ANEW: Final = (
    "Restore it from a copy, or delete all receipts of the shard ({}.g*.json): the run's command then computes it again"
)


def receipt_path(shard: int, generation: int) -> str:
    """Return the path of a receipt, `_receipts/shard-00000042.g0.json`."""
    return f"{RECEIPTS_FOLDER}/{shard_name(shard, generation)}.json"


def part_path(table: str, part: PartRecord) -> str:
    """Return the path of a part that a receipt names, `masks/shard-00000042.g0-51d20b6e.parquet`."""
    return f"{table}/{part.name}"


def list_receipts(location: RunLocation) -> dict[int, int]:
    """Return the highest committed generation by shard, ordered by shard; one listing, no receipt is read."""
    highest: dict[int, int] = {}
    for shard, generation, _ in list_commits(location):
        highest[shard] = max(generation, highest.get(shard, 0))
    return dict(sorted(highest.items()))


def spread_evenly(shards: Sequence[int], sample: int | None) -> frozenset[int]:
    """Return `sample` of the shards, evenly spaced, always the same ones; all shards if it is None or too large."""
    check_number("sample", sample, 0)
    if sample is None or sample >= len(shards):
        return frozenset(shards)
    return frozenset(shards[n * len(shards) // sample] for n in range(sample))


def list_commits(location: RunLocation) -> Iterator[tuple[int, int, float]]:
    """Yield shard, generation and time (epoch seconds by the storage's clock) of every receipt, in no order."""
    for file in location.list(RECEIPTS_FOLDER):
        if commit := commit_of_name(file.name):
            yield *commit, file.modified_s


def commit_of_name(name: str) -> tuple[int, int] | None:
    """Return the shard and the generation that a receipt of this name commits; None if it is not a receipt's name."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def read_receipt(location: RunLocation, shard: int, generation: int) -> Receipt | None:
    """Return the receipt, None if that generation is not committed; ConfigError if the file is not its receipt."""
    path = receipt_path(shard, generation)
    uri, data = location.uri(path), location.read_if_there(path)
    if data is None:
        return None
    receipt = parse_record(data, uri, Receipt, "a receipt", remedy=_ANEW.format(f"shard-{shard:08d}"))
    if (receipt.shard, receipt.generation) != (shard, generation):
        raise ConfigError(
            f"{uri} is the receipt of shard {receipt.shard}, generation {receipt.generation}: the file was copied or "
            "renamed; restore the original"
        )
    return receipt


def latest_receipts(location: RunLocation) -> Iterator[Receipt]:
    """Yield the latest receipt (the highest generation) of each committed shard, ordered by shard."""
    yield from of_this_run(location, read_receipts(location, list_receipts(location).items()))


def of_this_run(
    location: RunLocation, receipts: Iterable[Receipt], header: RunHeader | None = None
) -> Iterator[Receipt]:
    """Yield `receipts`, listed before, while each names `header` (read now by default) or an extension of its plan.

    ConfigError if one was committed under another header.
    """
    known = header_digests(location) if header is None else header.digests
    for receipt in receipts:
        # Without a header there is no digest to compare with. Another check reports the missing header.
        if known and receipt.header_sha256 not in known:
            raise ConfigError(foreign_receipt(location, receipt.shard, receipt.generation))
        yield receipt


def foreign_receipt(location: RunLocation, shard: int, generation: int) -> str:
    """Return the error message for a receipt that names none of the run's headers."""
    return (
        f"{location.uri(receipt_path(shard, generation))} was committed under another header than this run's. It, "
        f"{HEADER_NAME} or an extension of the plan was replaced: restore the file from a copy"
    )


def read_receipts(location: RunLocation, commits: Iterable[tuple[int, int]]) -> Iterator[Receipt]:
    """Yield the receipts of (shard, generation) pairs, in their order; several are read at once.

    ConfigError if one cannot be used, or was deleted since it was listed.
    """
    some, read = tee(commits)
    for (shard, generation), receipt in zip(some, try_read_receipts(location, read), strict=True):
        if isinstance(receipt, ConfigError):
            raise receipt
        if receipt is None:
            uri = location.uri(receipt_path(shard, generation))
            raise ConfigError(
                f"{uri} was deleted while it was being read. A run never deletes receipts: check what else writes there"
            )
        yield receipt


def try_read_receipts(
    location: RunLocation, commits: Iterable[tuple[int, int]]
) -> Iterator[Receipt | ConfigError | None]:
    """Yield what `read_receipt` returns or raises for each (shard, generation) pair, in their order."""
    yield from map_in_threads(lambda commit: try_read_receipt(location, *commit), commits, READERS)


def try_read_receipt(location: RunLocation, shard: int, generation: int) -> Receipt | ConfigError | None:
    """Return what `read_receipt` returns, or the error that it raises."""
    try:
        return read_receipt(location, shard, generation)
    except ConfigError as error:
        return error


@dataclass(frozen=True, slots=True)
class RunTotals:
    """Counts over all committed shards of a run, whenever they were committed.

    Attributes:
        images: annotated + empty + quarantined.
        reasons: Quarantined images by reason code, most frequent first.
        samples: Drawn candidate captions, equal ones counted each time (44 per mask under the paper's settings).
        expressions: Distinct candidates: equal captions of a mask count once.
        kept: Expressions that the keep rule keeps.
        kept_lone: Kept captions of masks alone in their image, which no filter compared.
        output_bytes: Size of the parts that receipts name.
        repeats: How many times a pool repeated its work on a shard after a loss.
        retried: Shards whose latest generation is a retry of quarantined images.
        degraded: Shards for which settings were lowered.
        mixed: Shards computed under another identity than the run's.
        long_texts: Draws whose texts are longer than the filter reads; no candidates.
        decisions: What captions in fixed shapes decided; `wide_decisions`, over the whole vocabulary.
        masks_left: Proposed masks that are left after each rule, by its name.
        emptied: Images without a mask, or without one that is whole, by the rule that took the last one.
        notes: Images by the note of their row.
        seconds: Wall seconds of the stages by name, summed over shards and so over actors.
    """

    shards: int = 0
    images: int = 0
    annotated: int = 0
    empty: int = 0
    quarantined: int = 0
    masks: int = 0
    samples: int = 0
    expressions: int = 0
    kept: int = 0
    kept_lone: int = 0
    output_bytes: int = 0
    repeats: int = 0
    retried: int = 0
    degraded: int = 0
    mixed: int = 0
    long_texts: int = 0
    decisions: int = 0
    wide_decisions: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    masks_left: Mapping[str, int] = field(default_factory=dict)
    emptied: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def per_mask(self) -> str:
        """Expressions per mask, the yield, for people: all kept ones, of groups and of no target too, over masks."""
        return f"{self.kept / self.masks:.2f} expressions per mask" if self.masks else "no mask"

    @property
    def is_fruitless(self) -> bool:
        """Whether images were committed, and all of them are quarantined."""
        return self.images == self.quarantined > 0

    @property
    def wide_sentence(self) -> str:
        """What many wide decisions of captions mean for the run; empty if they are few."""
        if self.wide_decisions <= _MANY_WIDE * self.decisions:
            return ""
        share = f"{100 * self.wide_decisions / self.decisions:.0f} %"
        return f"{share} of the decisions needed the whole vocabulary: this costs time and changes no result."

    @property
    def empty_sentence(self) -> str:
        """Which rule left most of the empty images without a mask, and the setting; "" if few images are empty."""
        rule = max(self.emptied, key=self.emptied.__getitem__, default=None)
        num_cut = self.emptied.get("cut_edges", 0)
        num_empty, kind = self.empty + num_cut, "whole mask" if num_cut else "mask"
        if rule not in MASK_RULES or num_empty <= _MANY_EMPTY * self.images:
            return ""
        words, remedy = MASK_RULES[rule]
        share, num_told = f"{100 * num_empty / self.images:.0f} %", sum(self.emptied.values())
        taken = f"{words} took the last mask of {self.emptied[rule]:,} of {num_told:,}"
        return f"{share} of the images have no {kind}: {taken}. In a new run, {remedy}."


class Totals:
    """Sums up receipts."""

    def __init__(self, receipts: Iterable[Receipt] = ()) -> None:
        self._counts: Counter[str] = Counter()
        self._by_name = {name: Counter[str]() for name in ("reasons", *COUNTED_BY_NAME)}
        self._seconds: Counter[str] = Counter()
        for receipt in receipts:
            self.add(receipt)

    def add(self, receipt: Receipt) -> None:
        """Count the shard of `receipt`; add each shard only once."""
        self._count(receipt, 1)

    def remove(self, receipt: Receipt) -> None:
        """Subtract a receipt that was added, because its shard has a higher generation now."""
        self._count(receipt, -1)

    def _count(self, receipt: Receipt, sign: int) -> None:
        counts = receipt.counts.model_dump(exclude={"reasons"})
        size = sum(part.size_bytes for part in receipt.parts.values())
        outside = {"repeats": receipt.num_repeats, "degraded": bool(receipt.degraded), "mixed": bool(receipt.mixed)}
        retried = {"retried": receipt.generation > 0}
        of_captions = receipt.model_dump(include={"long_texts", "decisions", "wide_decisions"})
        whole = {"shards": 1, "output_bytes": size, **retried, **of_captions, **outside, **counts}
        self._counts.update({name: sign * value for name, value in whole.items()})
        for name, counter in self._by_name.items():
            found = receipt.counts.reasons if name == "reasons" else getattr(receipt, name)
            counter.update({key: sign * count for key, count in found.items()})
        for stage, seconds in receipt.seconds.items():
            self._seconds[stage] += sign * seconds  # type: ignore[assignment]  # a Counter sums floats as well

    @property
    def images(self) -> int:
        """Images so far."""
        return self._counts["images"]

    def sum(self) -> RunTotals:
        """Return the totals so far."""
        found: dict[str, Any] = {**self._counts, "seconds": dict(self._seconds)}
        for name, counter in self._by_name.items():
            found[name] = {key: count for key, count in counter.most_common() if count}
        return RunTotals(**found)


def _asked(run: CombinedRun) -> dict[str, Any]:
    """Return what was asked of a run that was combined, without its place."""
    own = run.model_dump(mode="json", include={"name", "root", "source", "origin", "identity", "num_shards"})
    return {**own, "method": run.config.method()}


class RootDigest:
    """One sha256 over what was asked and what came out; takes the latest receipts in the order of their shards.

    It covers SOURCE, the method, the identity, the plan, and for each committed shard the content of its parts, its
    counts and its degraded or mixed settings. It leaves out when and where the run worked: times, placement, nodes,
    attempts, generations, and the place of its parent. So two runs that wrote the same bytes have the same root,
    whatever went wrong on the way. The digests of the header and of the receipts cover what is left out.
    """

    def __init__(self, header: RunHeader, receipts: Iterable[Receipt] = ()) -> None:
        """Begin with the run's header, whose plan includes the extensions, and with `receipts`."""
        self._digest = hashlib.sha256()
        self._add(
            {
                "source": header.source,
                "origin": header.origin,
                "method": header.config.method(),
                "identity": header.identity.model_dump(mode="json"),
                "plan": [(part.rows, part.sha256) for part in header.plan_parts],
                "images": [header.num_images, header.num_repeated, header.num_shards],
                **({"combined": [_asked(each) for each in header.combined]} if header.combined else {}),
                **header.model_dump(mode="json", include={"audits", "exclusions"}),
            }
        )
        for receipt in receipts:
            self.add(receipt)

    def add(self, receipt: Receipt) -> None:
        """Add a shard by its latest receipt."""
        self._add(
            {
                "shard": receipt.shard,
                "parts": {table: [part.rows, part.sha256] for table, part in receipt.parts.items()},
                "counts": receipt.counts.model_dump(),
                "degraded": receipt.degraded,
                "mixed": receipt.mixed,
            }
        )

    def hexdigest(self) -> str:
        """Return the digest of all that was added, 64 hex digits."""
        return self._digest.hexdigest()

    def _add(self, tree: dict[str, Any]) -> None:
        self._digest.update(json.dumps(tree, sort_keys=True, separators=(",", ":")).encode() + b"\n")
