from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.files.location import RunLocation
from pseudoris.schemas.shard import MasksLeft
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.viewer.gallery_sample import read_summary
from pseudoris.viewer.quality_page import MIN_JACCARD, Duplicates, Growth, iter_quality, quality_of_run, word_set
from tests.store.builders import commit_images, empty, start_run
from tests.viewer.builders import annotated, write_run

HOSTILE = "</td><script>document.title='owned'</script>"
SAID = [(0, "a red circle", 1.5, 1), (0, "the dotted circle", 1.2, 1), (1, HOSTILE, 1.4, 0)]


def page_of(location):
    run = OpenRun.at(location)
    text = "".join(iter_quality(quality_of_run(run, read_summary(run))))
    return re.sub(r"\s+", " ", text)


@pytest.fixture
def run(tmp_path):
    return write_run(
        tmp_path / "run",
        *[(f"{n}.png", lambda entry: annotated(entry, 2, SAID)) for n in range(4)],
        ("empty.png", empty),
    )


def test_the_page_holds_every_part(run):
    text = page_of(run)
    headings = re.findall(r'<h2 id="[^"]*">([^<]*)</h2>', text)
    assert headings == [
        *("Distinctiveness", "Uniqueness", "Correctness", "Masks per image", "Length in words"),
        *("Share kept by decoder and crop", "Throughput by stage", "Vocabulary growth", "Near-duplicates"),
        *("Copies of images", "Most common expressions", "Most common head nouns"),
    ]
    assert re.search(r"[0-9]+ byte for byte, ", text)
    assert text.count('class="chart"') == 6


def test_figures_stand_where_they_belong(run):
    text = page_of(run)
    assert "1 masks" not in text
    assert all(words in text for words in ("2 masks: 4 images", "0 masks: 1 image<"))
    assert '<th scope="row">beam</th><td class="h0" title="8 of 12 draws">67 %</td>' in text
    # Two shards of 1.5 s and 2 s; five images.
    assert re.search(
        r'caption</th><td class="number">4\.0</td><td class="number">800\.0</td><td class="number">1\.2<', text
    )
    assert "τ = 1.35" in text


def test_charts_count_expressions_of_many_words_and_of_the_lowest_and_highest_score(tmp_path):
    said = [(0, f"{'very ' * 45}big {number}", 1.1 + 0.13 * number, 1) for number in range(45)]
    text = page_of(write_run(tmp_path / "run", ("0.png", lambda entry: annotated(entry, 2, said))))
    assert "47 words: 45 expressions" in text
    chart = text[text.index(">Distinctiveness<") : text.index(">Uniqueness<")]
    assert sum(map(int, re.findall(r": (\d+) expressions?,", chart))) == 45


def test_what_strangers_wrote_is_escaped(run):
    text = page_of(run)
    assert HOSTILE not in text
    assert "&lt;/td&gt;&lt;script&gt;" in text
    assert text.count("<script") == 1


@pytest.mark.parametrize(("wide", "is_told"), [(4, False), (6, True)])
def test_many_wide_decisions_of_captions_are_told_beside_the_seconds(tmp_path, wide, is_told):
    location = RunLocation.open(str(tmp_path))
    commit_images(location, start_run(location), empty, seconds={"caption": 1.0}, decisions=100, wide_decisions=wide)
    said = f"Captions: {wide} % of the decisions needed the whole vocabulary: this costs time and changes no result"
    assert (said in page_of(location)) == is_told


def test_many_images_without_a_mask_are_told_beside_the_masks_with_the_rule(tmp_path):
    location = RunLocation.open(str(tmp_path))
    left = MasksLeft(predicted_iou=3, stability=3, box_doubles=2, min_area=0)
    commit_images(location, start_run(location), lambda entry: replace(empty(entry), masks_left=left))
    said = "100 % of the images have no mask: the least area took the last mask of 12 of 12. In a new run, lower masks."
    assert said in page_of(location)


def test_a_run_without_anything_still_has_a_page(tmp_path):
    text = page_of(write_run(tmp_path / "run"))
    assert all(words in text for words in ("No expression was drawn by a model", "The receipts hold no seconds"))
    assert 'class="chart"' not in text


A, B = ("a-0000",), ("a-0001",)


def counted(*images):
    counter = Duplicates()
    for image in images:
        counter.add_image(image)
    return counter


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A photo of the Red, red star", {"red", "star"}),
        ("star red", {"red", "star"}),
        ("man's t-shirt", {"man's", "t-shirt"}),
        ("the photo", {"the", "photo"}),
        ("grün_1", {"grün", "1"}),
        ("?!", set()),
    ],
)
def test_a_word_set_has_no_order_case_article_or_frame(text, words):
    assert word_set(text) == words


def test_what_an_earlier_image_said_is_seen_before_and_the_same_image_does_not_count():
    found = counted([(A, "a star"), (A, "the star")], [(A, "an image of a star"), (A, "a moon")])

    assert (found.seen_before, found.counted) == (1, 4)


WORDS = st.lists(st.sampled_from(["red", "blue", "star", "boat", "left", "small"]), min_size=1, max_size=6).map(
    " ".join
)


@given(st.lists(st.tuples(st.sampled_from([A, B]), WORDS), max_size=8))
def test_the_counts_are_those_of_the_definition(spoken):
    same, other = set(), set()
    for (i, (first, a)), (j, (second, b)) in combinations(enumerate(spoken), 2):
        one, two = set(a.split()), set(b.split())
        if len(one & two) / len(one | two) >= MIN_JACCARD:
            (same if first == second else other).update((i, j))

    found = counted(spoken)
    assert (found.same_mask, found.other_mask) == (len(same), len(other))


def test_the_curve_begins_at_nothing_and_counts_each_word_once():
    found = Growth()
    found.add(["a red star", "a red boat", "A STAR"])
    assert found.points == ((0, 0), (1, 3), (2, 4), (3, 4))
    assert (found.num_words, found.heaps_exponent) == (4, None)
