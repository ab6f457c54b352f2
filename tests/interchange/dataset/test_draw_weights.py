"""The draw of the Pseudo-RIS authors beside ours: what may be drawn, and how often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset import ExpressionFilter, JoinedDataset, MixedDataset, RisDataset, SampleSpec
from pseudoris.interchange.dataset.shard_reader import FULL_WEIGHT, DatasetRun
from pseudoris.schemas.shard import CaptionSample
from tests.interchange.dataset.builders import BuiltRun, build_run
from tests.interchange.exports.builders import export
from tests.interchange.exports.readers_pseudo_ris import PseudoDataset

TAU = 1.35


def drawn(times: int, **fields) -> dict[str, object]:
    return {"samples": (CaptionSample("masked", "beam", None, None, -1.0, "none", 0),) * times, **fields}


def scored(times: int, distinctiveness: float, **fields) -> dict[str, object]:
    return drawn(times, distinctiveness=distinctiveness, kept=distinctiveness > TAU, **fields)


# Some of the first mask passes tau, nothing of the second.
RIVALS = [
    (0, "the red circle", scored(5, 1.4)),
    (0, "a circle in red", scored(2, 1.5)),
    (0, "a circle", scored(7, 0.9)),
    (1, "a thing", scored(6, 0.4)),
    (1, "a dot", scored(3, TAU)),
]
# Nine draws, of which the authors' loader draws from four.
LONE = [
    (0, "best", drawn(3, correctness=0.9)),
    (0, "worst", drawn(1, correctness=0.1)),
    (0, "middle", drawn(4, correctness=0.5)),
    (0, "nothing", drawn(1, correctness=None)),
]
BETTER_HALF = {"best": 3, "middle": 1}
FALLBACK = {"a thing": 6, "a dot": 3}
PASSING = {"the red circle": 5, "a circle in red": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return build_run(folder, num_shards=1, per_shard=2, rows=lambda number: (RIVALS, LONE)[number])


def weights(run: BuiltRun, **spec) -> list[dict[str, int]]:
    """Return the weight of each text that may be drawn, by mask."""
    opened = DatasetRun.open(run.location, SampleSpec(parts=("text",), **spec))
    content = opened.content(0)
    bounds = content.index.first_rows.tolist()
    return [
        dict(zip(content.texts[first:end], content.draw_weights[first:end].tolist(), strict=True))
        for first, end in pairwise(bounds)
    ]


def texts(dataset, epoch: int = 0) -> list[str]:
    dataset.set_epoch(epoch)
    return [text for sample in dataset for text in sample["expressions"]]


def test_the_authors_draw_is_what_their_loader_draws_of_the_export(run, tmp_path):
    place = RunLocation.open(str(tmp_path / "export"))
    assert run.header.config.filtering.tau == TAU
    export("pseudo-ris-csv", run, place)
    theirs = PseudoDataset(Path(place.root), doc_value=TAU)
    expected = [Counter(theirs[at].captions[choice] for choice in theirs.candidates(at)) for at in range(len(theirs))]
    assert weights(run, draw="pseudo_ris") == [dict(each) for each in expected]
    assert expected == [PASSING, FALLBACK, BETTER_HALF]


def test_each_text_is_drawn_as_often_as_its_weight_says(run):
    num_epochs = 600
    dataset = RisDataset(run.location, SampleSpec(parts=("text",), draw="pseudo_ris"))
    found = Counter(text for epoch in range(num_epochs) for text in texts(dataset, epoch))
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
def test_the_other_conditions_say_what_there_is_to_draw_from(run, draw, where, expected):
    assert weights(run, draw=draw, where=ExpressionFilter(**where)) == expected


def test_a_humans_and_a_composers_text_weigh_one_and_a_wrong_label_nothing(tmp_path):
    written = {"distinctiveness": None, "correctness": None, "samples": ()}
    rows = [
        (0, "by hand", {**written, "source": "human"}),
        (0, "composed", {**written, "source": "composer"}),
        (0, "drawn", scored(4, 2.0)),
        (1, "rejected", scored(4, 0.5)),
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
    found = Counter(text for epoch in range(300) for text in texts(dataset, epoch))
    assert set(found) == {"sure", "likely", "doubtful"}
    # Five standard deviations at most.
    assert abs(found["sure"] / 1200 - 0.75) < 0.06
    assert found["doubtful"] == 1200
    assert any(len(set(texts(dataset, epoch)[:4])) == 1 for epoch in range(20))


def test_the_best_weight_of_a_mask_is_known_and_other_draws_and_humans_have_one(weighed, tmp_path):
    dataset = RisDataset(weighed.location, WEIGHTED)
    assert dataset.best_weights() == pytest.approx([0.9, 0.5], abs=1e-6)
    plain = RisDataset(weighed.location, SampleSpec(parts=("text",)))
    assert plain.best_weights().tolist() == [1.0]
    human = RisDataset(build_run(tmp_path, num_shards=1, prefix="human-").location, SampleSpec(parts=("text",)))
    mixed = MixedDataset(JoinedDataset([dataset, plain]), human, fraction=0.25)
    assert mixed.best_weights() == pytest.approx([0.9, 0.5, 1.0, 1.0, 1.0], abs=1e-6)
