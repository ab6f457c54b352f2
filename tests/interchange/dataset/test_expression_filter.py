"""Filters, exclusions and draws: what may be drawn, how often, and what is refused, against plain references."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset import (
    ExpressionFilter,
    JoinedDataset,
    MixedDataset,
    RisDataset,
    RisIterableDataset,
    SampleSpec,
    StreamOrder,
)
from pseudoris.interchange.dataset.sample_spec import PARTS
from pseudoris.interchange.dataset.shard_reader import FULL_WEIGHT, DatasetRun
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import PartRecord
from pseudoris.schemas.shard import CaptionSample
from pseudoris.store.exclusion_rules import ExclusionRecord, exclusion
from tests.builders.seals import forge_header
from tests.interchange.dataset.builders import BuiltRun, build_run
from tests.interchange.exports.builders import export
from tests.interchange.exports.readers_pseudo_ris import PseudoDataset

SCORED = [
    (0, "the red circle", {"distinctiveness": 1.4, "correctness": 0.3}),
    (0, "a circle", {"distinctiveness": 0.9, "kept": False, "correctness": 0.6}),
    (1, "a very long expression of a small dotted circle", {"distinctiveness": 1.1}),
    (1, "größe", {"distinctiveness": 2.0}),
    (1, "by hand", {"distinctiveness": None, "source": "human", "samples": (), "correctness": None}),
]
LONE = [(0, "the only one", {}), (0, "by hand alone", {"source": "human", "samples": (), "correctness": None})]


@pytest.fixture
def scored(tmp_path):
    """Scored, human and lone expressions, in two images of one shard."""
    return build_run(tmp_path, num_shards=1, per_shard=2, rows=lambda number: (SCORED, LONE)[number])


def texts(run, where):
    spec = SampleSpec(parts=("text",), where=where, expressions_per_mask=None)
    return {text for sample in RisIterableDataset(run.location, spec) for text in sample["expressions"]}


ALL = {text for _, text, _ in (*SCORED, *LONE)}
HUMAN = {"by hand", "by hand alone"}


@pytest.mark.parametrize(
    ("where", "missing"),
    [
        ({}, {"a circle"}),
        ({"is_kept_only": False}, set()),
        ({"tau": 1.2}, {"a circle", "a very long expression of a small dotted circle"}),
        ({"tau": 1.4}, {"a circle", "a very long expression of a small dotted circle", "the red circle"}),
        ({"tau": -math.inf}, set()),
        ({"tau": 0.5, "lone": "drop"}, {"the only one"}),
        ({"lone": "drop"}, {"a circle", "the only one"}),
        ({"bounds": {"correctness": (0.4, None)}}, {"a circle", "the red circle", *HUMAN}),
        ({"is_kept_only": False, "bounds": {"correctness": (None, 0.5)}}, {"a circle", *HUMAN}),
        ({"bounds": {"distinctiveness": (1.4, 1.9)}}, ALL - {"the red circle"}),
        ({"bounds": {"area_px": (1, None), "predicted_iou": (0.95, None)}}, ALL),
        ({"bounds": {"predicted_iou": (0.85, 0.9)}}, {"a circle"}),
        ({"words": (3, 3)}, ALL - {"the red circle", "the only one", "by hand alone"}),
        ({"words": (None, 2)}, ALL - {"größe", "by hand"}),
        ({"characters": (5, 5)}, ALL - {"größe"}),
        ({"decoders": frozenset({"beam"})}, {"a circle", *HUMAN}),
        ({"decoders": frozenset({"top_k"})}, ALL),
        ({"sources": frozenset({"human"})}, ALL - HUMAN),
        ({"sources": frozenset({"model"})}, {"a circle", *HUMAN}),
        # The negatives of docs/guides/composing.md.
        ({"is_kept_only": False, "bounds": {"distinctiveness": (None, 1.0)}, "sources": {"model"}}, ALL - {"a circle"}),
        ({"max_clip_tokens": 5}, ALL - {"the red circle", "by hand", "the only one", "by hand alone"}),
    ],
)
def test_a_filter_keeps_what_it_says(scored, where, missing):
    assert texts(scored, ExpressionFilter(**where)) == ALL - missing


def test_a_pseudo_label_passes_every_tau_as_it_was_kept(tmp_path):
    bare = {"source": "recipe", "samples": (), "distinctiveness": None, "uniqueness": None, "correctness": None}
    rows = [(0, "the star", bare), (1, "the star", {**bare, "kept": False}), (1, "a context", {**bare, "kept": False})]
    run = build_run(tmp_path, num_shards=1, per_shard=1, rows=lambda number: rows)
    for where in ({}, {"tau": 1.2}, {"tau": -math.inf}, {"lone": "drop"}):
        assert texts(run, ExpressionFilter(**where)) == {"the star"}
    assert texts(run, ExpressionFilter(is_kept_only=False)) == {"the star", "a context"}


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"bounds": {"distinct": (0, 1)}}, "there is no score 'distinct'. The scores are uniqueness"),
        ({"words": (3, 2)}, r"words: the bounds \(3, 2\) are in the wrong order"),
        ({"bounds": {"correctness": (1.0, 0.5)}}, r"correctness: the bounds \(1.0, 0.5\) are in the wrong order"),
        ({"tau": "1.1"}, "tau is '1.1'. Give a number, or None"),
        ({"bounds": {"weight": 0.5}}, r"weight is 0.5. Give \(lowest, highest\), numbers or None"),
        ({"bounds": {"weight": ("0.2", None)}}, r"weight is \('0.2', None\). Give \(lowest"),
        ({"lone": "maybe"}, r"lone is 'maybe'\. Give one of keep, drop, better_half, or None"),
        ({"max_clip_tokens": 2}, "max_clip_tokens is 2. Give 3 or more: start, end and one word"),
        ({"decoders": frozenset({"topk", "beam"})}, "decoders: there is no 'topk'. Choose from beam, top_k, top_p"),
        ({"decoders": "beam"}, "decoders is the text 'beam'. Give a set"),
        ({"decoders": frozenset()}, "decoders is empty, so nothing passes. Give some of beam, top_k, top_p"),
        ({"sources": {"humans"}}, "sources: there is no 'humans'. Choose from model, human"),
        ({"sources": "human"}, "sources is the text 'human'. Give a set"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(where, message):
    with pytest.raises(ConfigError, match=message):
        ExpressionFilter(**where)


NOTHING = ExpressionFilter(words=(99, None))


def test_a_filter_that_keeps_nothing_is_refused_where_that_is_known(scored):
    spec = SampleSpec(parts=("text",), where=NOTHING)
    with pytest.raises(ConfigError, match=r"No expression of the run at .* passes the filter .* Loosen it\.$"):
        RisDataset(scored.location, spec)
    for uneven in ("drop", "pad"):
        with pytest.raises(ConfigError, match=r"No expression of the run at .* passes the filter .* Loosen"):
            RisIterableDataset(scored.location, spec, order=StreamOrder(uneven=uneven))


def test_a_filter_that_keeps_nothing_is_told_by_an_epoch_that_does_not_know_before(scored, caplog):
    dataset = RisIterableDataset(scored.location, SampleSpec(parts=("text",), where=NOTHING))
    with caplog.at_level("WARNING", logger="pseudoris.interchange"):
        assert list(dataset) == []
    assert "No expression in the 1 shards of worker 0, rank 0 passes the filter" in caplog.text
    caplog.clear()
    assert len(list(RisIterableDataset(scored.location, SampleSpec(parts=("text",))))) == 3
    # A stream without a shard of its own is no sign of a filter.
    other = StreamOrder(rank=1, world_size=2)
    assert list(RisIterableDataset(scored.location, SampleSpec(parts=("text",)), order=other)) == []
    assert "passes the filter" not in caplog.text


# Without a benchmark's images: by key, and by the sha256 that the images table stores.


@pytest.fixture
def exclude(run, tmp_path) -> list[str]:
    """One image by its name, one by its bytes."""
    (tmp_path / "names.txt").write_text("s0-1.png\n")
    digest = sha256_hex((run.source / "s2-3.png").read_bytes())
    (tmp_path / "bench.csv").write_text(f"sha256\n{digest}\n")
    return [str(tmp_path / "names.txt"), str(tmp_path / "bench.csv")]


@pytest.mark.parametrize("parts", [("text",), PARTS])
def test_excluded_images_are_left_out_by_a_spec_as_workers_get_it(run, exclude, parts):
    sent = pickle.dumps(SampleSpec(exclude=exclude, parts=parts))
    for path in exclude:
        Path(path).unlink()
    spec, gone = pickle.loads(sent), {image_id("s0-1.png"), image_id("s2-3.png")}
    mapped, streamed = RisDataset(run.location, spec), RisIterableDataset(run.location, spec)
    assert len(mapped) == streamed.count() == 20
    for samples in (mapped, streamed):
        found = {sample["image_id"] for sample in samples}
        assert len(found) == 10
        assert not gone & found


def test_the_state_names_the_rules_in_one_order(exclude):
    state = SampleSpec(exclude=exclude).as_json()
    assert len(state["exclude"]) == 2
    assert SampleSpec(exclude=exclude[::-1]).as_json() == state


def test_perceptual_hashes_are_refused_unless_the_run_was_planned_with_them(tmp_path):
    run = build_run(tmp_path, num_shards=1).location
    looks = exclusion("phash", "bench", ["00" * 8], settings={"max_distance": 8})
    spec = SampleSpec(parts=("text",), exclude=looks)
    with pytest.raises(ConfigError, match="bench has perceptual hashes, but a dataset compares names and sha256 alone"):
        RisDataset(run, spec)
    part = PartRecord(name="g0001/exclusions-00000000.parquet", rows=1, size_bytes=1, sha256="00" * 32)
    planned = ExclusionRecord(rules=looks, part=part).model_dump(mode="json")
    forge_header(run, lambda tree: tree.update(exclusions=planned))
    assert len(RisDataset(run, spec)) == 8


TAU = 1.35


def drawn(times: int, **fields) -> dict[str, object]:
    return {"samples": (CaptionSample("masked", "beam", None, None, -1.0, "none", 0),) * times, **fields}


def rated(times: int, distinctiveness: float, **fields) -> dict[str, object]:
    return drawn(times, distinctiveness=distinctiveness, kept=distinctiveness > TAU, **fields)


# Some of the first mask passes tau, nothing of the second.
RIVALS = [
    (0, "the red circle", rated(5, 1.4)),
    (0, "a circle in red", rated(2, 1.5)),
    (0, "a circle", rated(7, 0.9)),
    (1, "a thing", rated(6, 0.4)),
    (1, "a dot", rated(3, TAU)),
]
# Nine draws, of which the authors' loader draws from four.
LONE_DRAWN = [
    (0, "best", drawn(3, correctness=0.9)),
    (0, "worst", drawn(1, correctness=0.1)),
    (0, "middle", drawn(4, correctness=0.5)),
    (0, "nothing", drawn(1, correctness=None)),
]
BETTER_HALF = {"best": 3, "middle": 1}
FALLBACK = {"a thing": 6, "a dot": 3}
PASSING = {"the red circle": 5, "a circle in red": 2}


@pytest.fixture(scope="module")
def rivals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return build_run(folder, num_shards=1, per_shard=2, rows=lambda number: (RIVALS, LONE_DRAWN)[number])


def weights(run: BuiltRun, **spec) -> list[dict[str, int]]:
    """Return the weight of each text that may be drawn, by mask."""
    opened = DatasetRun.open(run.location, SampleSpec(parts=("text",), **spec))
    content = opened.content(0)
    bounds = content.index.first_rows.tolist()
    return [
        dict(zip(content.texts[first:end], content.draw_weights[first:end].tolist(), strict=True))
        for first, end in pairwise(bounds)
    ]


def drawn_texts(dataset, epoch: int = 0) -> list[str]:
    dataset.set_epoch(epoch)
    return [text for sample in dataset for text in sample["expressions"]]


def test_the_authors_draw_is_what_their_loader_draws_of_the_export(rivals, tmp_path):
    place = RunLocation.open(str(tmp_path / "export"))
    assert rivals.header.config.filtering.tau == TAU
    export("pseudo-ris-csv", rivals, place)
    theirs = PseudoDataset(Path(place.root), doc_value=TAU)
    expected = [Counter(theirs[at].captions[choice] for choice in theirs.candidates(at)) for at in range(len(theirs))]
    assert weights(rivals, draw="pseudo_ris") == [dict(each) for each in expected]
    assert expected == [PASSING, FALLBACK, BETTER_HALF]


def test_each_text_is_drawn_as_often_as_its_weight_says(rivals):
    num_epochs = 600
    dataset = RisDataset(rivals.location, SampleSpec(parts=("text",), draw="pseudo_ris"))
    found = Counter(text for epoch in range(num_epochs) for text in drawn_texts(dataset, epoch))
    for shares in (PASSING, FALLBACK, BETTER_HALF):
        for text, weight in shares.items():
            # Five standard deviations at most.
            assert abs(found[text] / num_epochs - weight / sum(shares.values())) < 0.1
    assert set(found) == {*PASSING, *FALLBACK, *BETTER_HALF}


@pytest.mark.parametrize(
    ("draw", "where", "expected"),
    [
        ("pseudo_ris", {"tau": 1.45}, [{"a circle in red": 2}, FALLBACK, BETTER_HALF]),
        ("pseudo_ris", {"tau": 0.39}, [{**PASSING, "a circle": 7}, FALLBACK, BETTER_HALF]),
        ("pseudo_ris", {"is_kept_only": False}, [{**PASSING, "a circle": 7}, FALLBACK, BETTER_HALF]),
        ("pseudo_ris", {"lone": "keep"}, [PASSING, FALLBACK, {"best": 3, "worst": 1, "middle": 4, "nothing": 1}]),
        ("pseudo_ris", {"lone": "drop"}, [PASSING, FALLBACK]),
        ("pseudo_ris", {"words": (2, None)}, [PASSING, FALLBACK]),
        ("pseudo_ris", {"max_clip_tokens": 4}, [{"a circle": 7}, FALLBACK, BETTER_HALF]),
        ("pseudo_ris", {"bounds": {"area_px": (1e9, None)}}, []),
        ("distinct", {"lone": "better_half"}, [dict.fromkeys(PASSING, 1), dict.fromkeys(BETTER_HALF, 1)]),
        ("distinct", {"lone": "better_half", "tau": 99.0}, [dict.fromkeys(BETTER_HALF, 1)]),
    ],
)
def test_the_other_conditions_say_what_there_is_to_draw_from(rivals, draw, where, expected):
    assert weights(rivals, draw=draw, where=ExpressionFilter(**where)) == expected


def test_a_humans_and_a_composers_text_weigh_one_and_a_wrong_label_nothing(tmp_path):
    written = {"distinctiveness": None, "correctness": None, "samples": ()}
    rows = [
        (0, "by hand", {**written, "source": "human"}),
        (0, "composed", {**written, "source": "composer"}),
        (0, "drawn", rated(4, 2.0)),
        (1, "rejected", rated(4, 0.5)),
        (1, "not the object", {**written, "source": "recipe", "kept": False}),
    ]
    run = build_run(tmp_path, num_shards=1, per_shard=1, rows=lambda number: rows)
    assert weights(run, draw="pseudo_ris") == [{"by hand": 1, "composed": 1, "drawn": 4}, {"rejected": 4}]


WEIGHTED = SampleSpec(parts=("text",), draw="weighted", where=ExpressionFilter(is_kept_only=False))
# By text: weight, and whether the run kept it; the last two are of another mask.
WEIGHTS = {"sure": (0.9, True), "likely": (0.3, False), "hopeless": (0.0, False), "doubtful": (0.5, False)}


@pytest.fixture(scope="module")
def weighed(tmp_path_factory):
    rows = [
        (int(text == "doubtful"), text, drawn(3, distinctiveness=1.1, weight=weight, kept=kept))
        for text, (weight, kept) in WEIGHTS.items()
    ]
    return build_run(tmp_path_factory.mktemp("weighed"), num_shards=1, per_shard=1, rows=lambda number: rows)


def test_what_passes_may_be_drawn_by_its_weight_unless_that_is_0(weighed):
    sure, likely, doubtful = (round(WEIGHTS[text][0] * FULL_WEIGHT) for text in ("sure", "likely", "doubtful"))
    everything = [{"sure": sure, "likely": likely}, {"doubtful": doubtful}]
    assert weights(weighed, draw="weighted", where=WEIGHTED.where) == everything
    assert weights(weighed, draw="weighted") == [{"sure": sure}]
    bounded = ExpressionFilter(is_kept_only=False, bounds={"weight": (0.4, None)})
    assert weights(weighed, draw="weighted", where=bounded) == [{"sure": sure}, {"doubtful": doubtful}]


def test_a_text_comes_in_proportion_to_its_weight_with_replacement(weighed):
    dataset = RisDataset(weighed.location, replace(WEIGHTED, expressions_per_mask=4))
    found = Counter(text for epoch in range(300) for text in drawn_texts(dataset, epoch))
    assert set(found) == {"sure", "likely", "doubtful"}
    # Five standard deviations at most.
    assert abs(found["sure"] / 1200 - 0.75) < 0.06
    assert found["doubtful"] == 1200
    assert any(len(set(drawn_texts(dataset, epoch)[:4])) == 1 for epoch in range(20))


def test_the_best_weight_of_a_mask_is_known_and_other_draws_and_humans_have_one(weighed, tmp_path):
    dataset = RisDataset(weighed.location, WEIGHTED)
    assert dataset.best_weights() == pytest.approx([0.9, 0.5], abs=1e-6)
    plain = RisDataset(weighed.location, SampleSpec(parts=("text",)))
    assert plain.best_weights().tolist() == [1.0]
    human = RisDataset(build_run(tmp_path, num_shards=1, prefix="human-").location, SampleSpec(parts=("text",)))
    mixed = MixedDataset(JoinedDataset([dataset, plain]), human, fraction=0.25)
    assert mixed.best_weights() == pytest.approx([0.9, 0.5, 1.0, 1.0, 1.0], abs=1e-6)
