"""The scores that the real filter stage stores are all that `refilter` needs to do what it would have done."""

from __future__ import annotations

from dataclasses import replace

from schemas.config import ComputeConfig
from schemas.keeping import KeepCondition
from schemas.tables import EXPRESSIONS, SCHEMAS
from store.commit import commit_shard
from store.location import RunLocation
from store.plan import read_shard_plan
from store.reading import read_table
from store.refiltering import RuleChange, refilter
from tests.builders.images import png
from tests.builders.scored_runs import begin, finish, scored_shard
from tests.store.builders import HEIGHT, WIDTH
from workers.filtering import ClipScorer


def annotate(location: RunLocation, *settings: str) -> RunLocation:
    """Run the filter stage over masks and candidates of a shard, and commit it."""
    header = begin(location, "filtering.min_score=0.0001", *settings, num_shards=1, per_shard=3)
    entries = read_shard_plan(location, header, 0)
    drafted = scored_shard(header.config, entries)
    images = [replace(image, data=png(height=HEIGHT, width=WIDTH, seed=image.position)) for image in drafted.images]
    scorer = ClipScorer(header.config.filtering, ComputeConfig(device="cpu"))
    scored = scorer(drafted.with_images(tuple(images)))
    commit_shard(location, scored, planned_ids=[entry.image_id for entry in entries], embed_images=True)
    finish(location)
    return location


def test_a_rule_applied_afterwards_gives_the_bytes_of_the_stage_that_had_it(tmp_path):
    loose, strict, new = (RunLocation.open(str(tmp_path / name)) for name in ("loose", "strict", "new"))
    annotate(loose, "filtering.tau=0")
    table = read_table(loose, EXPRESSIONS)
    distinctiveness = sorted(table["distinctiveness"].drop_null().to_pylist())
    # Both bounds are values that occur: equal is not above.
    tau, bound = distinctiveness[len(distinctiveness) // 3], sorted(table["correctness"].to_pylist())[5]
    annotate(strict, f"filtering.tau={tau!r}", f"filtering.keep=['correctness > {bound!r}', 'count >= 2']")
    conditions = [KeepCondition.model_validate(text) for text in (f"correctness > {bound!r}", "count >= 2")]
    summary = refilter(loose, new, RuleChange(tau, conditions))
    assert 0 < summary.totals.kept < summary.num_kept_before == table.num_rows
    for name in SCHEMAS:
        assert _parts(new, name) == _parts(strict, name)


def _parts(location: RunLocation, table: str) -> dict[str, bytes]:
    return {file.name: location.read_bytes(f"{table}/{file.name}") for file in location.list(table)}
