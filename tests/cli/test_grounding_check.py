"""Second opinions (`grounding_check`), gone since 0.7.0: runs that have them are read, none is computed."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pyarrow.dataset as ds
import pytest
import yaml

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import GroundingCheckConfig, WeightsConfig
from pseudoris.schemas.config_layers import config_hash, lay_over, load_config, validate
from pseudoris.schemas.fitted import log_odds, logistic, ranks
from pseudoris.schemas.run_records import RunHeader
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.plan import read_shard_plan
from tests.builders.command import invoke
from tests.builders.fitted import fitted, fitted_file
from tests.builders.images import png
from tests.builders.scored_runs import begin, finish, scored_shard
from tests.store.builders import commit_made, make_entries, start_run

BY_SHARE = {"grounding": 1.0}
CHECK = GroundingCheckConfig(architecture="ViT-B-16", weights=WeightsConfig(uri="random:7"))
REFUSED = "grounding_check is set, but second opinions are gone since 0.7.0, .*: leave it out, or finish .* 0.6.0"


def checked_run(location: RunLocation, *shards: int) -> RunHeader:
    """Write the run of an older version, with a second opinion of each candidate, and some of its four shards."""
    tree = load_config("tiny", None, ["filtering.tau=1.0"]).model_dump() | {"grounding_check": CHECK.model_dump()}
    config = validate(lay_over(tree, assignments=[fitted(confidence=BY_SHARE)]))
    header = begun(location, config)
    for number in shards:
        shard = scored_shard(config, read_shard_plan(location, header, number))
        commit_made(location, header, shard.with_images(tuple(map(told, shard.images))))
    return header


def begun(location, config):
    example = begin(RunLocation.open(f"{location.root} without"))
    weights = {**example.identity.weights, "check": "d" * 64}
    identity = example.identity.model_copy(update={"method": config.method(), "weights": weights})
    changes = {"config": config, "config_sha256": config_hash(config), "identity": identity}
    return start_run(location, make_entries(4, 5), **changes)


def told(image):
    """Return the image with a choice, a share and a rival of each expression; a lone mask has no rival."""
    draw, expressions = random.Random(image.image_id), image.expressions
    shares = np.array([draw.uniform(0.01, 0.99) if each.rival_mask_id else 1.0 for each in expressions])
    # Confidence weighs the share alone.
    confidence = logistic(np.clip(log_odds(shares), -7, 7))
    rank = ranks(confidence, [each.target_mask_ids[0] for each in expressions])
    columns = {
        "grounding_choice": (shares > 0.5).astype(float).tolist(),
        "grounding_share": shares.tolist(),
        "grounding_rival": [each.rival_mask_id for each in expressions],
        "confidence": confidence.tolist(),
        "rank": rank.astype(int).tolist(),
    }
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return replace(image, expressions=tuple(replace(each, **row) for each, row in zip(expressions, rows, strict=True)))


def rows_of(folder):
    return ds.dataset(folder / "expressions").to_table().to_pylist()


def test_a_run_that_has_a_second_opinion_is_verified_refiltered_calibrated_exported_and_combined(tmp_path):
    out, bounded, weighed, both, exported = (tmp_path / name for name in ("out", "bounded", "w", "both", "e"))
    checked_run(RunLocation.open(str(out)), *range(4))
    finish(RunLocation.open(str(out)))
    invoke("verify", out)
    invoke("refilter", out, bounded, "--keep", "grounding_share > 0.5")
    before = [row | {"kept": row["kept"] and row["grounding_share"] > 0.5} for row in rows_of(out)]
    assert rows_of(bounded) == before
    assert 0 < sum(row["kept"] for row in before) < sum(row["kept"] for row in rows_of(out))

    # The share is a feature of confidence still.
    invoke("calibrate", out, "--yield", 1, "--to", tmp_path / "own.yaml")
    assert yaml.safe_load((tmp_path / "own.yaml").read_text())["confidence"]["grounding"] > 0
    of_pairs = fitted_file(confidence=BY_SHARE, pair_weight={"drawn": {"slope": 0.5}})
    invoke("refilter", bounded, weighed, "--weights", of_pairs, "--keep", "grounding_share > 0.5", "--keep", "rank < 3")
    assert require_header(RunLocation.open(str(weighed))).config.grounding_check == CHECK
    assert "second opinion" in (weighed / "DATACARD.md").read_text()
    invoke("combine", out, f"other={weighed}", both)
    for run in (bounded, weighed, both):
        invoke("verify", run)
    invoke("stats", weighed)
    invoke("gallery", weighed)
    invoke("export", weighed, exported)
    shares = {row["text"]: row["grounding_share"] for row in rows_of(exported)}
    assert shares
    assert None not in shares.values()


def test_no_run_computes_a_second_opinion(tmp_path):
    images, out, begun_out = tmp_path / "in", tmp_path / "out", tmp_path / "begun"
    images.mkdir()
    (images / "a.png").write_bytes(png())
    given = ("--set", f"grounding_check={CHECK.model_dump_json()}")
    for words in (("annotate", out), ("annotate", out, "--dry-run"), ("estimate",), ("doctor", out)):
        with pytest.raises(ConfigError, match=REFUSED):
            invoke(words[0], "--preset=tiny", images, *words[1:], *given)
    assert not out.exists()

    checked_run(RunLocation.open(str(begun_out)), 0)
    files = sorted(begun_out.rglob("*"))
    with pytest.raises(ConfigError, match=REFUSED):
        invoke("annotate", "--preset=tiny", images, begun_out)
    assert sorted(begun_out.rglob("*")) == files
