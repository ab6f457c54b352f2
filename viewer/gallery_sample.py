"""Reads what a gallery shows: a sample of a run's images, spread evenly over it, with everything written about them.

Called by `cli/gallery.py`, this room and examples. Rows are those of the run's tables
(`pseudoris.schemas.tables`). Memory holds a few numbers per shard, and the images one by one.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pseudoris.primitives.errors import ConfigError, ImageError, TransientError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.keep_rule import OPTIONAL_COLUMNS, Ints, KeepRule, meets
from pseudoris.schemas.shard import SOURCE_HUMAN
from pseudoris.schemas.stage_settings import ImagesConfig
from pseudoris.store.reports.run_status import run_status
from pseudoris.store.runs.receipts import RunTotals
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.judged_expressions import judged, scores_of, stated_rule
from pseudoris.store.tables.kept_clauses import KeptClause, kept_clauses
from pseudoris.store.tables.open_run import OpenRun, QuarantinedImage

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
# At most this many quarantined images are listed. `pseudoris status` counts all of them by reason.
MAX_QUARANTINED: Final = 200
# At most this many missing pictures are logged: if SOURCE was moved, all pictures are missing.
_MAX_WARNINGS: Final = 3
_IMAGE_COLUMNS: Final = ("image_id", "key", "height", "width", "sha256", "bytes")
_EXPRESSION_COLUMNS: Final = (
    *("image_id", "target_mask_ids", "rival_mask_id", "samples", "log_prob", "text", "head_noun", "count", "kind"),
    *("uniqueness", "correctness", "distinctiveness", "kept", "weight", "source", *OPTIONAL_COLUMNS),
)


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image that was annotated, or in which no mask survived.

    Height and width are in upright pixels. `data` is the encoded image; None if it can no longer be read. `settings`
    are those that its run decoded it by. `masks` and `expressions` are its rows of the tables. An expression also has
    `judged`, whether scores decide on it, and `unmet`, the positions among the rule's conditions that it does not
    meet.
    """

    image_id: str
    key: str
    height: int
    width: int
    data: bytes | None = None
    masks: tuple[Row, ...] = ()
    expressions: tuple[Row, ...] = ()
    settings: ImagesConfig = field(default_factory=ImagesConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class GallerySummary(RunTotals):
    """The run in numbers; counts cover the whole run, even if the pages show a part.

    Attributes:
        tau: The configured tau, where the slider begins.
        speed: Of the run, as `status` has it.
        pairs_digest: Digest of all that decides masks and texts: runs of one digest have the same pairs under an id.
        preset: The preset of the annotation; None if no models annotated.
        warning: Shown above all figures if the models do not know such images.
        rule: What is kept; without a tau if a scorer of another package decided, None if humans wrote all expressions,
            or the runs of a combined one have several.
        clauses: What is kept, of each sort of expression.
        least_composed: The confidence that every kept composed expression exceeds; None if none is composed.
    """

    source: str
    tau: float
    rule: KeepRule | None
    speed: str = "–"
    is_complete: bool = True
    pairs_digest: str = ""
    preset: str | None = None
    parent: str | None = None
    warning: str | None = None
    clauses: tuple[KeptClause, ...] = ()
    least_composed: float | None = None

    @property
    def is_by_confidence(self) -> bool:
        """Whether the rule bounds a confidence, which composed expressions have and distinctiveness they lack."""
        conditions = self.rule.conditions if self.rule else ()
        return self.least_composed is not None or any(each.column == "confidence" for each in conditions)

    @property
    def is_human(self) -> bool:
        """Whether people wrote all expressions."""
        return all(clause.source == SOURCE_HUMAN for clause in self.clauses)


@dataclass(frozen=True, slots=True)
class Gallery:
    """What the gallery page holds; `images` and `quarantined` are read once, one after another.

    `verdicts` are people's, by rater, by pair: `<image id>-0007-9f3a1c07`, as an audit names it.
    """

    summary: GallerySummary
    images: Iterable[GalleryImage]
    num_images: int
    quarantined: Iterable[QuarantinedImage] = ()
    verdicts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def choose_images(counts: Ints, sample: int) -> dict[int, list[int]]:
    """Return which of `counts[s]` images of each shard s are shown: at most `sample`, evenly spaced over all shards."""
    ends, num_shown = np.cumsum(counts), min(sample, int(np.sum(counts)))
    chosen: dict[int, list[int]] = defaultdict(list)
    for number in range(num_shown):
        position = number * int(ends[-1]) // num_shown
        shard = int(np.searchsorted(ends, position, "right"))
        chosen[shard].append(position - int(ends[shard] - counts[shard]))
    return dict(chosen)


def choose_shards(rows: Ints, max_rows: int) -> list[int]:
    """Return evenly spaced shards that hold at most `max_rows` rows together; at least one shard."""
    num_chosen = len(rows)
    while True:
        chosen = [number * len(rows) // num_chosen for number in range(num_chosen)]
        num_rows = int(sum(rows[shard] for shard in chosen))
        if num_rows <= max_rows or num_chosen == 1:
            return chosen
        # The number of shards shrinks in proportion to the rows. Shards of unequal size may need several steps.
        num_chosen = max(1, min(num_chosen - 1, num_chosen * max_rows // num_rows))


def gallery_from_run(
    run: OpenRun, planned: PlannedImages, *, sample: int = 200, besides: Collection[str] = ()
) -> Gallery:
    """Return a gallery of up to `sample` images of a run, and of those of `besides`.

    Args:
        run: It may still be going on.
        planned: Reads the images that are not embedded. One that it cannot read, or that has changed, is blank.
        sample: The most images to show, evenly spaced over those that are not quarantined, in plan order.
        besides: Ids of images that are shown in any case. A warning counts those that the run does not have.
    """
    counts = np.array([each.counts.num_shown for each in run.receipts], np.int64)
    chosen = {place: set(some) for place, some in choose_images(counts, sample).items()}
    num_asked = num_left = len(frozenset(besides))
    for place, shard in enumerate(run.shards() if num_left else ()):
        shown = shard.shown(("image_id",))["image_id"].to_pylist()
        if found := {position for position, image in enumerate(shown) if image in besides}:
            chosen[place] = chosen.get(place, set()) | found
            num_left -= len(found)
        if not num_left:
            break
    if num_left:
        logger.warning("%d of %d images asked for are not in the run, or are quarantined", num_left, num_asked)
    return Gallery(
        summary=read_summary(run),
        images=_iter_images(run, {at: sorted(chosen[at]) for at in sorted(chosen)}, planned),
        num_images=sum(len(positions) for positions in chosen.values()),
        quarantined=islice(run.quarantined(), MAX_QUARANTINED),
    )


def read_summary(run: OpenRun) -> GallerySummary:
    """Return the run in numbers."""
    header, status = run.header, run_status(run.location)
    composing = [each.config.composing for each in header.runs if each.config.composing and not each.is_human]
    composed = [min(each.min_first, each.least_of_others) for each in composing]
    # `filtering` is left out, because a refilter changes nothing else and has the same pairs as its parent.
    method = {key: value for key, value in header.identity.method.items() if key != "filtering"}
    presets = dict.fromkeys(e.config.preset for e in header.runs if e.origin in ("annotate", "refilter"))
    pairs = json.dumps([header.source, header.identity.weights, method], sort_keys=True)
    return GallerySummary(
        **{each.name: getattr(status, each.name) for each in fields(RunTotals)},
        source=status.source,
        tau=header.config.filtering.tau,
        rule=stated_rule(header),
        clauses=kept_clauses(header),
        least_composed=min(composed, default=None),
        speed=status.rates.text,
        is_complete=status.is_complete,
        pairs_digest=sha256_hex(pairs.encode())[:16],
        preset=" and ".join(presets) or None,
        parent=", ".join(each.location for each in header.above) or None,
        warning=header.warning,
    )


def _iter_images(run: OpenRun, chosen: Mapping[int, Sequence[int]], planned: PlannedImages) -> Iterator[GalleryImage]:
    pictures = _SourceImages(planned)
    for place, positions in chosen.items():
        shard = run.shard(place)
        header = run.header.of_shard(shard.receipt.shard)
        rule, settings = stated_rule(header), header.config.images
        joined = shard.joined(_IMAGE_COLUMNS, None, _EXPRESSION_COLUMNS).take(positions)
        table, scores = joined.expressions, scores_of(joined.expressions)
        # `judged` and `unmet` are computed here as in `refilter`, because the page's script compares only with τ.
        unmet: list[list[int]] = [[] for _ in range(table.num_rows)]
        for number, condition in enumerate(rule.conditions if rule else ()):
            for failed in np.flatnonzero(~meets([condition], scores, table.num_rows)):
                unmet[failed].append(number)
        decided = table.append_column("judged", pa.array(judged(table)))
        decided = decided.append_column("unmet", pa.array(unmet, pa.list_(pa.int16())))
        for row, masks, expressions in replace(joined, expressions=decided).rows():
            held = {name: row[name] for name in ("image_id", "key", "height", "width")}
            data = pictures.load(shard.receipt.shard, row)
            yield GalleryImage(**held, data=data, masks=tuple(masks), expressions=tuple(expressions), settings=settings)
    pictures.finish()


class _SourceImages:
    """Loads images that are not embedded; logs why the first few are missing, and how many are in all."""

    def __init__(self, planned: PlannedImages) -> None:
        self._planned = planned
        self._num_asked = self._num_blank = 0
        self._is_gone = False

    def load(self, shard: int, row: Row) -> bytes | None:
        self._num_asked += row["bytes"] is None
        try:
            if row["bytes"] is not None or not self._is_gone:
                return self._planned.annotated(shard, row)
        except (OSError, ImageError) as error:
            level = logging.WARNING if self._num_blank < _MAX_WARNINGS else logging.DEBUG
            logger.log(level, "The gallery does not show image %s: %s", row["key"], error)
        except (ConfigError, TransientError) as error:
            # SOURCE itself cannot be read, even after retries, so no other picture is tried.
            self._is_gone = True
            logger.warning("SOURCE cannot be read. No image after %s is tried: %s", row["key"], error)
        self._num_blank += 1
        return None

    def finish(self) -> None:
        if self._num_blank > _MAX_WARNINGS or self._is_gone:
            remedy = "If they have moved, give --source"
            logger.warning("%d of %d images are not shown. %s", self._num_blank, self._num_asked, remedy)
