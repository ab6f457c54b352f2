"""`refilter` makes a run from a complete run's scores, without models or images. Called by `cli` and users.

The plan and the tables of images, masks and failures must equal the parent's, byte for byte. In the expressions table
`kept` is computed again, and `weight` if its rule changes. If the composer's settings or weights change, its rows are
written anew, from the stored masks, candidates and scores. Users read `RefilterSummary`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, check_number
from pseudoris.schemas.audit_records import AuditRecord
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import lay_over, validate
from pseudoris.schemas.fitted import FittedConfig
from pseudoris.schemas.keep_rule import COMPOSED_KINDS, KeepCondition, KeepRule, LoneMasks
from pseudoris.schemas.run_records import Identity, RunHeader, ShardCounts
from pseudoris.schemas.shard import SOURCE_COMPOSER, Shard, ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, EXPRESSIONS_SCHEMA, IMAGES, MASKS
from pseudoris.store.runs.header import check_alike
from pseudoris.store.runs.parents import DerivedShard, Parent
from pseudoris.store.runs.planned_run import RunRequest, package_versions
from pseudoris.store.sessions.thread_executor import DEFAULT_THREADS, OnProgress, WrittenRun, derive_run
from pseudoris.store.tables.annotations import SHARD_COLUMNS, shard_images
from pseudoris.store.tables.judged_expressions import (
    check_scored,
    flags_of,
    is_from,
    judged,
    keeps_composed,
    num_kept_lone,
    passes,
    rule_of,
    weights_by,
)
from pseudoris.store.tables.open_run import JoinedTables, OpenRun
from pseudoris.store.tables.shard_tables import shard_tables, table_bytes, texts_in_splits

logger = logging.getLogger(__name__)

# These packages write the new tables, so the identity has their present versions. The rest is the parent's.
WRITERS: Final = ("pseudoris", "pyarrow")
# What the composer reads of a table where a setting asks for it: the table, the column, and what a run lacks without.
_MEASURED: Final = {
    "has_colours": (MASKS, "colours", "colours that {} did not measure"),
    "has_too_small": (IMAGES, "num_too_small", "how many masks were too small, which {} did not count"),
}
# The function writes new composed expressions for an image, in place of its old ones.
Compose = Callable[[ShardImage], ShardImage]


@dataclass(frozen=True, slots=True)
class RuleChange:
    """The new rule of what is kept; None keeps the parent's value.

    Attributes:
        tau: An expression is kept if its distinctiveness is strictly above it.
        keep: Further conditions. Those on composed kinds replace the parent's on such kinds alone, and those on scores
            the parent's on scores; an empty sequence removes all.
        lone_masks: What is kept of a mask alone in its image, see `pseudoris.schemas.keep_rule`.
        fitted: New fitted values. Their `confidence` must equal the parent's, which is not computed again: the command
            line checks it. Lines from `confidence` to `weight`, and the posterior, may differ.
        composing: Settings of `composing` as `--set` takes them.
        audit: What chose the rule, for the header; None if a person named it.
    """

    tau: float | None = None
    keep: Sequence[KeepCondition] | None = None
    lone_masks: LoneMasks | None = None
    fitted: FittedConfig | None = None
    composing: Sequence[str] = ()
    audit: AuditRecord | None = None


@dataclass(frozen=True)
class RefilterSummary(WrittenRun):
    """The result of a refilter; the new run is complete.

    Attributes:
        out: Path or url of the new run's folder.
        num_kept_before: Expressions that the parent keeps.
        accepted: Differences from the run's identity that `allow_mixed` accepted in this call.
    """

    out: str
    num_kept_before: int
    accepted: tuple[str, ...]

    @property
    def rule(self) -> KeepRule:
        """What is kept; of a combined run, what is kept of the first."""
        return rule_of(self.header)


def refilter(
    parent: RunLocation,
    target: RunLocation,
    change: RuleChange,
    *,
    composer_of: Callable[[RunConfig], Compose] | None = None,
    num_threads: int = DEFAULT_THREADS,
    allow_mixed: bool = False,
    is_repair: bool = False,
    on_progress: OnProgress = lambda done, total: None,
    on_wait: Callable[[str], None] = logger.warning,
) -> RefilterSummary:
    """Write a copy of the run at `parent` to `target` with another rule of what is kept; or continue such a copy.

    If it is killed, the same call continues; two processes may refilter at once. The tables equal those of a run that
    was annotated with that rule. `composer_of` makes the composer, which a change of what is composed needs.
    `num_threads` shards are in memory at once. `on_wait` is told who holds the new run, and of an edited data card.

    Raises:
        ConfigError: The parent is not complete; the target holds another run, parent or rule; or nothing would change.
        TransientError: Storage failed; the same call continues.
    """
    source = Parent.open(parent, target)
    header = source.header
    # Of a combined run, each run of models gets the change; what people wrote stays.
    is_judged = [not (header.combined and run.is_human) for run in header.runs]
    pairs = list(zip(header.runs, is_judged, strict=True))
    configs = [_changed(parent, run.config, change) if judges else run.config for run, judges in pairs]
    is_anew = any(_composes_anew(run.config, config) for run, config in zip(header.runs, configs, strict=True))
    _check_changes(parent, header, change, configs, composes_anew=is_anew)
    _check_measured(parent, header, configs)
    compose = _composer(parent, configs[0], composer_of) if is_anew else None
    identity = _identity(header, configs, composes_anew=is_anew)
    placement = header.config.placement.model_copy(update={"allow_mixed": allow_mixed, "repair": is_repair})
    config = configs[0].model_copy(update={"placement": placement})
    combined = tuple(
        run.model_copy(update={"config": config, "origin": "refilter" if judges else run.origin})
        for run, config, judges in zip(header.combined, configs, is_judged, strict=False)
    )
    request = RunRequest("refilter", header.source, identity, config, audit=change.audit, combined=combined)
    rewrite = partial(_rewritten, compose)
    planned, written = derive_run(
        target, source, request, rewrite, num_workers=num_threads, on_progress=on_progress, on_wait=on_wait
    )
    num_before = sum(receipt.counts.kept for receipt in source.receipts(planned.parent))
    return RefilterSummary(**vars(written), out=target.root, num_kept_before=num_before, accepted=planned.mixed)


def _identity(header: RunHeader, configs: Sequence[RunConfig], *, composes_anew: bool) -> Identity:
    """Return the identity of a run by the new `configs` of `header.runs`."""
    rules: Any = [config.method()["filtering"] for config in configs]
    composing = {"composing": configs[0].method()["composing"]} if composes_anew else {}
    method = {**header.identity.method, "filtering": rules if header.combined else rules[0], **composing}
    packages = (*WRITERS, "numpy") if composes_anew else WRITERS
    versions = {**header.identity.versions, **package_versions(packages)}
    return header.identity.model_copy(update={"method": method, "versions": versions})


def _composer(parent: RunLocation, config: RunConfig, composer_of: Callable[[RunConfig], Compose] | None) -> Compose:
    if composer_of is None:
        raise ValueError("composing changes, and composer_of is not given")
    if config.composing is None:
        return _without_composed
    if _has_cuts(parent):
        raise ConfigError(
            f"{parent.root} has masks that edges of tiles cut (masks.is_cut), and no captions of these: composed anew, "
            "texts of other objects would fit these too. Annotate with the settings instead"
        )
    return composer_of(config)


def refiltered(table: pa.Table, rule: KeepRule) -> pa.Table:
    """Return an expressions table with `kept` set by `rule`, and `weight` if the rule says how; all else stays.

    `kept` stays for expressions of a human, and for drawn ones of several masks.
    """
    kept = np.where(judged(table), passes(rule, table), flags_of(table["kept"]))
    kept = np.where(is_from(table, SOURCE_COMPOSER), keeps_composed(rule, table), kept)
    changed = {"kept": pa.array(kept, pa.bool_())}
    if rule.pair_weight is not None:
        changed["weight"] = pa.array(weights_by(rule.pair_weight, table), pa.float64())
    return pa.table([changed.get(name, table[name]) for name in EXPRESSIONS_SCHEMA.names], schema=EXPRESSIONS_SCHEMA)


def _rewritten(
    compose: Compose | None, header: RunHeader, shard: DerivedShard, contents: dict[str, bytes]
) -> tuple[Mapping[str, bytes], ShardCounts]:
    parent, before = shard.parent, shard.receipt
    rule = rule_of(header.of_shard(shard.number))
    if rule.tau is None:
        return contents, before.counts
    fitted = parent.header.of_shard(before.shard).config.filtering.fitted_values
    # Weights are copied if the rule is the parent's: a computation on another machine may change the last digit.
    rule = replace(rule, pair_weight=None) if rule.pair_weight == fitted.pair_weight else rule
    tables = shard.tables({EXPRESSIONS: contents[EXPRESSIONS]} if compose is None else contents)
    table = tables[EXPRESSIONS]
    if compose is not None:
        images, said = tables[IMAGES].select(SHARD_COLUMNS[IMAGES]), table.select(SHARD_COLUMNS[EXPRESSIONS])
        joined = JoinedTables.of(images, tables[MASKS], said, where=str(shard))
        composed = tuple(map(compose, shard_images(joined)))
        table = shard_tables(Shard(before.shard, 0, composed), embed_images=False)[EXPRESSIONS]
        table = texts_in_splits(table, images) if header.splits else table
    table = refiltered(table, rule)
    kept = {"kept": int(flags_of(table["kept"]).sum()), "kept_lone": num_kept_lone(table)}
    counts = before.counts.model_copy(update={"expressions": table.num_rows, **kept})
    return {**contents, EXPRESSIONS: table_bytes(table)}, counts


def _without_composed(image: ShardImage) -> ShardImage:
    return replace(image, expressions=tuple(each for each in image.expressions if each.source != SOURCE_COMPOSER))


def _composes_anew(before: RunConfig, config: RunConfig) -> bool:
    posteriors = [each.filtering.fitted_values.posterior for each in (before, config)]
    return before.composing != config.composing or (config.composing is not None and posteriors[0] != posteriors[1])


def _check_measured(parent: RunLocation, header: RunHeader, configs: Sequence[RunConfig]) -> None:
    """Accept the new `configs` of `header.runs` if the tables hold what they ask for, and the runs' own did not."""
    end = 0
    for run, config in zip(header.runs, configs, strict=True):
        start, end = end, end + run.num_shards
        for setting, (table, column, words) in _MEASURED.items():
            is_asked, was_asked = (bool(getattr(each.composing, setting, False)) for each in (config, run.config))
            if is_asked and not was_asked and not _is_filled(parent, range(start, end), table, column):
                place = f"{parent.root} ({run.name})" if run.name else parent.root
                raise ConfigError(f"composing.{setting} reads {words.format(place)}: leave it out, or annotate with it")


def _is_filled(parent: RunLocation, shards: range, table: str, column: str) -> bool:
    """Return whether the column has a value in some of the shards, or no row in all of them."""
    num_rows = 0
    for shard in OpenRun.at(parent).shards():
        if shard.receipt.shard in shards:
            values = shard.table(table, (column,))[column]
            if values.null_count < len(values):
                return True
            num_rows += len(values)
    return not num_rows


def _has_cuts(parent: RunLocation) -> bool:
    """Return whether some mask is cut: the composer reads its captions too, and no expression may be of it."""
    shards = OpenRun.at(parent).shards()
    return any(pc.any(shard.table(MASKS, ("is_cut",))["is_cut"]).as_py() for shard in shards)


def _changed(parent: RunLocation, config: RunConfig, change: RuleChange) -> RunConfig:
    check_number("tau", change.tau, 0, 1e308, is_whole=False)
    before = config.filtering
    tau = before.tau if change.tau is None else change.tau
    given = before.keep if change.keep is None else tuple(change.keep)
    # Bounds on drawn expressions and on composed kinds are independent: new ones replace only bounds of the same sort.
    sorts = {each.column in COMPOSED_KINDS for each in given} or {True, False}
    keep = (*(each for each in before.keep if (each.column in COMPOSED_KINDS) not in sorts), *given)
    tree = config.model_dump()
    tree["filtering"] |= {"tau": tau, "keep": keep, "lone_masks": change.lone_masks or before.lone_masks}
    if change.fitted is not None:
        tree["filtering"]["fitted"] = change.fitted.model_dump()
    laid = lay_over(tree, assignments=change.composing)
    if other := [key for key in laid if key != "composing" and laid[key] != tree.get(key)]:
        raise ConfigError(f"--set {other[0]}: refilter changes composing alone, such as composing.min_further=0.95")
    changed = validate(laid)
    if changed.composing is None and change.fitted is not None and change.fitted.values.pair_weight is None:
        raise ConfigError(
            f"--weights holds a composer's weights alone, and {parent.root} composes nothing: add --set composing={{}}"
        )
    return changed


def _check_changes(
    parent: RunLocation, header: RunHeader, change: RuleChange, configs: Sequence[RunConfig], *, composes_anew: bool
) -> None:
    """Accept the new `configs` of `header.runs` if something changes, and if they are equal where they must be."""
    if change.audit is not None and composes_anew:
        raise ConfigError(
            "--accuracy holds for what was judged, and --set or --weights compose others: refilter with these first, "
            "then draw and judge an audit of that run"
        )
    for each in configs:
        check_scored(each, change.keep or (), parent.root)
    if composes_anew or change.fitted is not None:
        check_alike(parent, header, "composing anew, or --weights,")
    if change.audit is not None:
        check_alike(parent, header, "--accuracy")
    if list(configs) == [run.config for run in header.runs]:
        before = configs[0].filtering
        raise ConfigError(
            f"the parent already keeps {KeepRule(before.tau, before.keep, lone_masks=before.lone_masks)}: "
            "give another --tau, --keep, --lone-masks, --weights or --set"
        )
