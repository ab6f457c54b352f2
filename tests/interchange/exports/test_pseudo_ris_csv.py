"""The Pseudo-RIS authors' layout through a reader that evaluates and draws as theirs does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pseudoris.interchange.exports import ExportReport
from pseudoris.schemas.shard import CaptionSample
from tests.interchange.dataset.builders import build_run
from tests.interchange.exports.builders import export, stored
from tests.interchange.exports.readers_pseudo_ris import PseudoDataset

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


def committed(folder: Path, *images):
    """Commit images of (texts, draws and fields of each expression) of each mask, as one shard."""
    rows = [
        [
            (mask, text, {**fields, "samples": tuple(draws) if isinstance(draws, list) else (DRAW,) * draws})
            for mask, of_mask in enumerate(masks)
            for text, draws, fields in of_mask
        ]
        for masks in images
    ]
    return build_run(folder, num_shards=1, per_shard=len(rows), rows=rows.__getitem__)


def scored(distinctiveness: float, **fields):
    return {"distinctiveness": distinctiveness, **fields}


def exported(run, place, **options) -> tuple[ExportReport, PseudoDataset]:
    report = export("pseudo-ris-csv", run, place, **options)
    return report, PseudoDataset(Path(place.root), doc_value=run.header.config.filtering.tau)


def test_the_columns_are_exactly_the_authors(built_run, place):
    _, dataset = exported(built_run, place)
    columns = ["index", "img_name", "img_id", "seg_id", "num_sent", "pseudo_caption", "doc", "one_mask"]
    assert list(dataset.frame.columns) == columns
    assert list(dataset.frame["index"]) == list(range(len(dataset)))
    assert {str(dataset.frame[name].dtype) for name in ("index", "img_id", "seg_id", "num_sent", "one_mask")} == {
        "int64"
    }


def test_captions_are_written_with_repr_so_that_quotes_newlines_and_unicode_evaluate(tmp_path, place):
    mask = [(text, 1, scored(9.0)) for text in HOSTILE]
    other = [("the other one", 2, scored(9.0))]
    _, dataset = exported(committed(tmp_path / "run", [mask, other]), place)
    # The tables hold texts stripped.
    assert dataset[0].captions == [text.strip() for text in HOSTILE]
    raw = (Path(place.root) / "pseudo_supervision/cutler_sam/distinctive_captions_cc3m.csv").read_bytes()
    assert raw.count(b"\n") == 3
    assert b"\r" not in raw


def test_a_caption_stands_as_often_as_it_was_drawn_with_its_score_each_time(tmp_path, place):
    mask = [("the red one", 3, scored(9.0)), ("a thing", 2, scored(0.5, kept=False))]
    other = [("the blue one", 1, scored(9.0)), ("it", 1, scored(0.25, kept=False))]
    _, dataset = exported(committed(tmp_path / "run", [mask, other]), place)
    assert dataset[0].captions == ["the red one"] * 3 + ["a thing"] * 2
    assert dataset[0].doc == [9.0] * 3 + [0.5] * 2
    assert dataset[1].doc == [9.0, 0.25]


def test_captions_stand_in_the_order_of_the_authors_script_which_their_loader_reads_by_place(tmp_path, place):
    def draw(crop, decoder, **number):
        return replace(DRAW, crop=crop, decoder=decoder, **{"top_k": None, "top_p": None, **number})

    red = [draw("context_1.2", "beam"), draw("masked", "top_k", top_k=2), draw("masked", "beam")]
    dotted = [draw("context_1.0", "top_p", top_p=0.6), draw("masked", "top_p", top_p=0.7)]
    mask = [("red", red, scored(9.0)), ("dotted", dotted, scored(0.5, kept=False))]
    _, dataset = exported(committed(tmp_path / "run", [mask, [("other", 1, scored(9.0))]]), place)
    assert dataset[0].captions == ["red", "red", "dotted", "dotted", "red"]
    assert dataset[0].doc == [9.0, 9.0, 0.5, 0.5, 9.0]


UNFILTERED = [
    [[("kept", 1, scored(7.0)), ("low", 2, scored(0.5, kept=False))], [("rejected", 3, scored(1.35, kept=False))]],
    [[("all rejected", 1, scored(0.2, kept=False))], [("rejected too", 1, scored(0.3, kept=False))]],
    [[("alone", 2, {})]],
]


def test_of_a_mask_without_a_caption_above_tau_the_trainer_draws_any_unless_it_is_left_out(tmp_path, place):
    run = committed(tmp_path / "run", *UNFILTERED)
    report, dataset = exported(run, place)
    assert dataset.draw(1) == "rejected"
    assert any(note.startswith("3 of 5 rows have no caption above doc_value") for note in report.notes)
    report, dataset = exported(run, place, distinctive_only=True, is_overwriting=True)
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


def test_a_mask_alone_is_ranked_by_correctness_and_its_better_half_is_drawn(tmp_path, place):
    mask = [
        ("best", 1, {"correctness": 0.9}),
        ("worst", 1, {"correctness": 0.1}),
        ("no noun", 2, {"correctness": None}),
    ]
    _, dataset = exported(committed(tmp_path / "run", [mask], [[("the only one", 1, {})]]), place)
    assert dataset[0].one_mask == 1
    assert dataset[0].doc == [0.9, 0.1, 0.0, 0.0]
    assert [dataset[0].captions[choice] for choice in dataset.candidates(0)] == ["best", "worst"]
    # A single caption stands twice, since half of one is none.
    assert dataset[1].captions == ["the only one"] * 2
    assert dataset.draw(1) == "the only one"


def test_a_humans_expression_has_no_score_and_is_always_drawn(tmp_path, place):
    human = {"source": "human", "correctness": None, "distinctiveness": None, "head_noun": None, "kept": True}
    masks = [[("the left one", 0, human), ("left", 0, human)], [("the right one", 0, human)]]
    report, dataset = exported(committed(tmp_path / "run", masks), place)
    assert [row.one_mask for row in (dataset[0], dataset[1])] == [0, 0]
    assert {dataset[0].captions[choice] for choice in dataset.candidates(0)} == {"the left one", "left"}
    assert any("no score" in note for note in report.notes)


def test_what_the_run_rejects_is_not_above_tau_and_a_wrong_label_is_in_no_row(tmp_path, place):
    composed = {"source": "composer", "correctness": None, "distinctiveness": None, "samples": 0}
    label = {**composed, "source": "recipe"}
    masks = [
        # A condition of the run beside tau, 1.35, rejects the first two.
        [("bound", 1, scored(9.0, kept=False)), ("said", 0, {**composed, "kept": False}), ("kept", 1, scored(2.0))],
        [("right", 0, label), ("wrong", 0, {**label, "kept": False})],
        [("wrong too", 0, {**label, "kept": False})],
    ]
    report, dataset = exported(committed(tmp_path / "run", masks), place)
    assert [row.doc for row in (dataset[0], dataset[1])] == [[1.35, 2.0, 0.0], [2.0, 2.0]]
    assert [row.captions for row in (dataset[0], dataset[1])] == [["bound", "kept", "said"], ["right"] * 2]
    assert {dataset[0].captions[choice] for choice in dataset.candidates(0)} == {"kept"}
    assert report.rows["rows"] == 2
    assert report.dropped["texts of a recipe that do not name their mask"] == 2


def test_the_report_tells_what_the_trainer_must_be_told(built_run, place):
    report, dataset = exported(built_run, place)
    note, encoded = report.notes
    assert encoded == "3 image(s) were encoded again, upright and with three channels."
    assert "doc_mode=True, doc_value=1.35" in note
    assert report.rows["rows"] == len(dataset)
    assert report.size_bytes == sum(
        (Path(place.root) / path).stat().st_size for path in stored(place.root) if "/" in path
    )
