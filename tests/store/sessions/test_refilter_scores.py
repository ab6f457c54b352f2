"""The scores that the real filter stage stores are all that `refilter` needs to do what it would have done."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.schemas.config import ComputeConfig
from pseudoris.schemas.config_layers import validate
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.keep_rule import KeepCondition
from pseudoris.schemas.shard import ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, SCHEMAS
from pseudoris.store.checks.expressions import expression_problems
from pseudoris.store.checks.verification import verify_run
from pseudoris.store.runs.header import read_header
from pseudoris.store.runs.plan import read_shard_plan
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from pseudoris.store.tables.judged_expressions import rule_of
from pseudoris.workers.filtering import ClipScorer
from tests.builders.fitted import fitted, fitted_file
from tests.builders.images import png
from tests.builders.scored_runs import begin, finish, scored_shard
from tests.builders.tables import read_table
from tests.store.builders import HEIGHT, WIDTH, commit_made, parts

WEIGHTS = {"bias": 2, "listener": 0.5, "truth": 1.5, "log_uniqueness": 2, "relative_truth": 1}
LISTENING = ("captions.listening={}", fitted(confidence=WEIGHTS))


def annotate(location: RunLocation, *settings: str) -> RunLocation:
    """Run the filter stage over heard masks and candidates of a shard, keep all but for `settings`, and commit it."""
    settings = ("filtering.min_cosine=0.0001", "filtering.tau=0", *settings)
    header = begin(location, *settings, num_shards=1, per_shard=3)
    entries = read_shard_plan(location, header, 0)
    drafted = scored_shard(header.config, entries)
    pictures = [png(height=HEIGHT, width=WIDTH, seed=image.position) for image in drafted.images]
    images = [
        replace(_heard(image), data=data, sha256=sha256_hex(data))
        for image, data in zip(drafted.images, pictures, strict=True)
    ]
    scorer = ClipScorer(header.config.filtering, ComputeConfig(device="cpu"))
    scored = scorer(drafted.with_images(tuple(images)))
    commit_made(location, header, scored)
    finish(location)
    return location


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return annotate(RunLocation.open(str(tmp_path_factory.mktemp("plain") / "run")), *LISTENING)


@pytest.mark.slow
def test_a_bound_on_confidence_and_rank_afterwards_gives_the_same_bytes_and_verify_recomputes_both(plain, tmp_path):
    strict, new = (RunLocation.open(str(tmp_path / name)) for name in ("strict", "new"))
    rows = read_table(plain, EXPRESSIONS).to_pylist()
    bound = sorted(row["confidence"] for row in rows)[len(rows) // 3]
    words = [f"confidence > {bound!r}", "rank <= 2"]
    annotate(strict, f"filtering.keep={words!r}", *LISTENING)
    summary = refilter(plain, new, RuleChange(keep=[KeepCondition.model_validate(word) for word in words]))
    assert 0 < summary.totals.kept < len(rows)
    assert parts(new) == parts(strict)
    assert verify_run(new).problems == ()
    # Other weights would have given other confidences.
    header = read_header(new)
    forged = header.config.model_dump(mode="json")
    forged["filtering"]["fitted"]["values"]["confidence"]["truth"] = 1.6
    rule = rule_of(header.model_copy(update={"config": validate(forged)}))
    problems = expression_problems(0, {name: read_table(new, name) for name in SCHEMAS}, rule)
    assert {problem.what for problem in problems} == {"expression_confidence"}


@pytest.mark.slow
def test_a_line_applied_afterwards_gives_the_bytes_of_the_stage_that_had_it(plain, tmp_path):
    weighed, new = (RunLocation.open(str(tmp_path / name)) for name in ("weighed", "new"))
    line = {"drawn": {"bias": -0.5, "slope": 0.7}}
    annotate(weighed, *LISTENING, fitted(confidence=WEIGHTS, pair_weight=line))
    assert {row["weight"] for row in read_table(plain, EXPRESSIONS).to_pylist()} == {1.0}
    lines = read_header(weighed).config.filtering.fitted
    # The runs hold the values: the file is not read again.
    fitted_file(confidence=WEIGHTS, pair_weight=line).unlink()
    summary = refilter(plain, new, RuleChange(fitted=lines))
    assert summary.totals.kept == summary.num_kept_before
    assert len({row["weight"] for row in read_table(new, EXPRESSIONS).to_pylist()}) > 3
    assert parts(new) == parts(weighed)
    assert verify_run(new).problems == ()
    # Another rule of what is kept leaves the weights as they are.
    again = RunLocation.open(str(tmp_path / "again"))
    refilter(new, again, RuleChange(tau=99.0))
    assert read_table(again, EXPRESSIONS)["weight"].equals(read_table(new, EXPRESSIONS)["weight"])


def _heard(image: ShardImage) -> ShardImage:
    draw = random.Random(image.image_id)
    return replace(
        image,
        expressions=tuple(
            replace(each, caption_score=-4 * truth, listener=draw.random(), truth=-truth)
            for each, truth in ((each, draw.uniform(0.1, 2)) for each in image.expressions)
        ),
    )
