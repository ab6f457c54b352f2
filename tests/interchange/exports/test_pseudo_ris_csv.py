"""The Pseudo-RIS authors' layout through a reader that evaluates and draws as theirs does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pseudoris.schemas.ids import image_id, sha256_hex
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import CaptionSample
from pseudoris.store.location import RunLocation
from tests.interchange.exports.builders import BuiltRun, export, jpeg, stored
from tests.interchange.exports.readers_pseudo_ris import PseudoDataset
from tests.store.builders import commit_images, empty, make_expression, make_mask, start_run

DRAW = CaptionSample("masked", "beam", None, None, -1.0, "none", 0)
HOSTILE = (
    "it's the \"red\" one, 'here'",
    "one\nline\r\nand another",
    "a back\\slash and a tab\t",
    "größe 大きい 🐈",
    "[1, 2], 'x'",
    "nan",
    "\u2028\x00a\x7f",
)


def committed(location: RunLocation, *images) -> BuiltRun:
    """Commit images of (texts and options of each expression) of each mask, as one shard."""
    entries = [PlanEntry(0, n, image_id(f"{n}.jpg"), f"{n}.jpg", 100, None, 5) for n in range(len(images))]
    header, data = start_run(location, entries), jpeg()

    def image(entry):
        masks = images[entry.position]
        records = [make_mask(entry.image_id, n, (3 + n, 2, 9 + n, 7)) for n in range(len(masks))]
        expressions = [
            replace(
                make_expression(record.mask_id, text, **options),
                samples=tuple(times) if isinstance(times, list) else (DRAW,) * times,
            )
            for record, of_mask in zip(records, masks, strict=True)
            for text, times, options in of_mask
        ]
        whole = replace(empty(entry), data=data, sha256=sha256_hex(data), masks=tuple(records))
        return replace(whole, expressions=tuple(expressions))

    commit_images(location, header, image, embed_images=True)
    return BuiltRun(location, header, ())


def scored(distinctiveness: float, **options):
    return {"rival": "x-0001", "uniqueness": 1.0, "distinctiveness": distinctiveness, **options}


@pytest.fixture
def run_location(tmp_path) -> RunLocation:
    return RunLocation.open(str(tmp_path / "run"))


def exported(run, place, **options) -> PseudoDataset:
    export("pseudo-ris-csv", run, place, **options)
    return PseudoDataset(Path(place.root), doc_value=run.header.config.filtering.tau)


def test_the_columns_are_exactly_the_authors(built_run, place):
    dataset = exported(built_run, place)
    columns = ["index", "img_name", "img_id", "seg_id", "num_sent", "pseudo_caption", "doc", "one_mask"]
    assert list(dataset.frame.columns) == columns
    assert list(dataset.frame["index"]) == list(range(len(dataset)))
    assert {str(dataset.frame[name].dtype) for name in ("index", "img_id", "seg_id", "num_sent", "one_mask")} == {
        "int64"
    }


def test_captions_are_written_with_repr_so_that_quotes_newlines_and_unicode_evaluate(run_location, place):
    mask = [(text, 1, scored(9.0)) for text in HOSTILE]
    other = [("the other one", 2, scored(9.0))]
    dataset = exported(committed(run_location, [mask, other]), place)
    # The tables hold texts stripped.
    assert dataset[0].captions == [text.strip() for text in HOSTILE]
    raw = (Path(place.root) / "pseudo_supervision/cutler_sam/distinctive_captions_cc3m.csv").read_bytes()
    assert raw.count(b"\n") == 3
    assert b"\r" not in raw


def test_a_caption_stands_as_often_as_it_was_drawn_with_its_score_each_time(run_location, place):
    mask = [("the red one", 3, scored(9.0)), ("a thing", 2, scored(0.5, kept=False))]
    other = [("the blue one", 1, scored(9.0)), ("it", 1, scored(0.25, kept=False))]
    dataset = exported(committed(run_location, [mask, other]), place)
    assert dataset[0].captions == ["the red one"] * 3 + ["a thing"] * 2
    assert dataset[0].doc == [9.0] * 3 + [0.5] * 2
    assert dataset[1].doc == [9.0, 0.25]


def test_captions_stand_in_the_order_of_the_authors_script_which_their_loader_reads_by_place(run_location, place):
    def draw(crop, decoder, **number):
        return replace(DRAW, crop=crop, decoder=decoder, **{"top_k": None, "top_p": None, **number})

    red = [draw("context_1.2", "beam"), draw("masked", "top_k", top_k=2), draw("masked", "beam")]
    dotted = [draw("context_1.0", "top_p", top_p=0.6), draw("masked", "top_p", top_p=0.7)]
    mask = [("red", red, scored(9.0)), ("dotted", dotted, scored(0.5, kept=False))]
    dataset = exported(committed(run_location, [mask, [("other", 1, scored(9.0))]]), place)
    assert dataset[0].captions == ["red", "red", "dotted", "dotted", "red"]
    assert dataset[0].doc == [9.0, 9.0, 0.5, 0.5, 9.0]


UNFILTERED = [
    [[("kept", 1, scored(7.0)), ("low", 2, scored(0.5, kept=False))], [("rejected", 3, scored(1.35, kept=False))]],
    [[("all rejected", 1, scored(0.2, kept=False))], [("rejected too", 1, scored(0.3, kept=False))]],
    [[("alone", 2, {})]],
]


def test_of_a_mask_without_a_caption_above_tau_the_trainer_draws_any_and_the_notes_say_of_how_many(run_location, place):
    run = committed(run_location, *UNFILTERED)
    report = export("pseudo-ris-csv", run, place)
    dataset = PseudoDataset(Path(place.root), run.header.config.filtering.tau)
    assert dataset.draw(1) == "rejected"
    assert any(note.startswith("3 of 5 rows have no caption above doc_value") for note in report.notes)


def test_masks_without_a_caption_above_tau_are_left_out_where_that_is_asked_for(run_location, place):
    run = committed(run_location, *UNFILTERED)
    report = export("pseudo-ris-csv", run, place, distinctive_only=True)
    dataset = PseudoDataset(Path(place.root), run.header.config.filtering.tau)
    rows = [dataset[at] for at in range(len(dataset))]
    assert [(row.img_id, row.seg_id, row.captions) for row in rows] == [
        (1, 0, ["kept", "low", "low"]),
        (2, 0, ["alone", "alone"]),
    ]
    assert report.dropped == {
        "masks without an expression above tau": 3,
        "images whose masks have no expression above tau": 1,
    }
    assert not any("no caption above" in note for note in report.notes)


def test_a_mask_alone_is_ranked_by_correctness_and_its_better_half_is_drawn(run_location, place):
    mask = [
        ("best", 1, {"correctness": 0.9}),
        ("worst", 1, {"correctness": 0.1}),
        ("no noun", 2, {"correctness": None}),
    ]
    dataset = exported(committed(run_location, [mask]), place)
    assert dataset[0].one_mask == 1
    assert dataset[0].doc == [0.9, 0.1, 0.0, 0.0]
    assert [dataset[0].captions[choice] for choice in dataset.candidates(0)] == ["best", "worst"]


def test_a_single_caption_of_a_mask_alone_stands_twice_since_half_of_one_is_none(run_location, place):
    dataset = exported(committed(run_location, [[("the only one", 1, {})]]), place)
    assert dataset[0].captions == ["the only one"] * 2
    assert dataset.draw(0) == "the only one"


def test_a_humans_expression_has_no_score_and_is_always_drawn(run_location, place):
    human = {"source": "human", "correctness": None, "head_noun": None, "kept": True}
    masks = [[("the left one", 0, human), ("left", 0, human)], [("the right one", 0, human)]]
    run = committed(run_location, masks)
    report = export("pseudo-ris-csv", run, place)
    dataset = PseudoDataset(Path(place.root), run.header.config.filtering.tau)
    assert [row.one_mask for row in (dataset[0], dataset[1])] == [0, 0]
    assert {dataset[0].captions[choice] for choice in dataset.candidates(0)} == {"the left one", "left"}
    assert any("no score" in note for note in report.notes)


def test_the_report_tells_what_the_trainer_must_be_told(built_run, place):
    report = export("pseudo-ris-csv", built_run, place)
    note, encoded = report.notes
    assert encoded == "3 image(s) were encoded again, upright and with three channels."
    assert "doc_mode=True, doc_value=1.35" in note
    assert report.rows["rows"] == len(PseudoDataset(Path(place.root)))
    assert report.size_bytes == sum(
        (Path(place.root) / path).stat().st_size for path in stored(place.root) if "/" in path
    )
