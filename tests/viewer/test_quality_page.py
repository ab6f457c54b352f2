import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.run_records import ParentRun
from pseudoris.schemas.shard import CaptionSample
from pseudoris.viewer.gallery_sample import read_summary
from pseudoris.viewer.quality import quality_of_run
from pseudoris.viewer.quality_page import (
    HEIGHT_PX,
    Bar,
    Line,
    Marker,
    edge_labels,
    histogram,
    iter_quality,
    line_chart,
    stacked_bar,
)
from tests.store.builders import empty
from tests.viewer.builders import annotated, write_run

PARENT = ParentRun(
    location="s3://bucket/parent", created_utc="2026-01-01T00:00:00Z", manifest=1, manifest_sha256="0" * 64
)
HOSTILE = "</td><script>document.title='owned'</script>"
SAID = [(0, "a red circle", 1.5, 1), (0, "the dotted circle", 1.2, 1), (1, HOSTILE, 1.4, 0)]


def page_of(location, **options):
    text = "".join(iter_quality(quality_of_run(location, read_summary(location), **options)))
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
        *("Most common expressions", "Most common head nouns"),
    ]
    assert text.count('class="chart"') == 6


def test_figures_stand_where_they_belong(run):
    text = page_of(run)

    assert "1 masks" not in text
    assert "2 masks: 4 images" in text
    assert "0 masks: 1 image<" in text
    assert '<th scope="row">beam</th><td class="h0" title="8 of 12 draws">67 %</td>' in text
    # Two shards of 1.5 s and 2 s; five images.
    assert re.search(
        r'caption</th><td class="number">4\.0</td><td class="number">800\.0</td><td class="number">1\.2<', text
    )
    assert "τ = 1.35" in text


def test_what_strangers_wrote_is_escaped(run):
    text = page_of(run)

    assert HOSTILE not in text
    assert "&lt;/td&gt;&lt;script&gt;" in text
    assert text.count("<script") == 1


def test_a_run_without_anything_still_has_a_page(tmp_path):
    text = page_of(write_run(tmp_path / "run"))

    assert "No expression was drawn by a model" in text
    assert "The receipts hold no seconds" in text
    assert 'class="chart"' not in text


def test_a_bar_at_the_end_that_holds_what_lies_beyond_says_so(tmp_path):
    said = [(0, f"circle {n}", d, 1) for n, d in enumerate([0.01, *[1 + n / 400 for n in range(400)], 99.0])]
    text = page_of(write_run(tmp_path / "run", ("a.png", lambda entry: annotated(entry, 2, said))))

    hints = re.findall(r"<title>([^<]*): [\d,]+ expressions?, [\d,]+ kept</title>", text)
    assert (hints[0], hints[47]) == ("below 1.02", "1.97 and above")
    assert all(" to " in hint for hint in hints[1:47])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"origin": "refilter", "parent": PARENT}, "They are in the run that it was made from, s3://bucket/parent."),
        ({"origin": "import"}, "humans wrote these annotations"),
        ({}, "The receipts hold no seconds yet."),
    ],
)
def test_where_the_receipts_hold_no_seconds_the_page_says_why(tmp_path, changes, said):
    makers = [("a.png", lambda entry: annotated(entry, 2, SAID))]
    text = re.sub("<[^>]*>", "", page_of(write_run(tmp_path / "run", *makers, seconds={}, **changes)))

    assert said in text
    assert ("not made by models" in text) is False


def test_a_decoder_of_another_package_may_have_any_name_and_setting(tmp_path):
    names = (("my decoder", None, None), ("my decoder", 5, None), ("my decoder 1e", None, 0.5), ("beam", None, None))
    samples = tuple(CaptionSample("masked", *name, -1.0) for name in names)
    said = [(0, "a red circle", 1.5, 1, {"samples": samples})]
    text = page_of(write_run(tmp_path / "run", ("a.png", lambda entry: annotated(entry, 2, said))))

    rows = re.findall(r'<th scope="row">([^<]*)</th><td class="h', text)
    assert rows == ["beam", "my decoder", "my decoder 5", "my decoder 1e 0.5"]


TEXT = "</title></svg><script>alert(1)</script>\"'&"


def parsed(markup):
    return ET.fromstring(str(markup))


def rects(svg, kind):
    return [rect for rect in svg.iter("rect") if rect.get("class") == kind]


def test_bars_are_as_high_as_their_counts_and_the_part_lies_in_the_whole():
    svg = parsed(histogram([Bar(10, 5, "ten"), Bar(0, 0, "none"), Bar(5, 5, "five")], title="counts"))

    assert [float(rect.get("height")) for rect in rects(svg, "whole")] == [HEIGHT_PX, HEIGHT_PX / 2]
    assert [float(rect.get("height")) for rect in rects(svg, "part")] == [HEIGHT_PX / 2, HEIGHT_PX / 2]
    assert [title.text for title in svg.iter("title")] == ["ten", "none", "five"]
    assert (svg.get("role"), svg.get("aria-label")) == ("img", "counts")


def test_a_bar_of_one_among_millions_is_still_seen():
    svg = parsed(histogram([Bar(5_000_000, 1, ""), Bar(1, 0, "")], title=""))

    assert min(float(rect.get("height")) for rect in [*rects(svg, "whole"), *rects(svg, "part")]) == 1.0


def test_every_text_is_escaped_and_nothing_needs_a_style():
    charts = [
        histogram(
            [Bar(1, 1, TEXT)],
            title=TEXT,
            labels=[(0.5, TEXT)],
            marker=Marker(0.9, TEXT),
        ),
        line_chart([Line(TEXT, ((0, 0), (1, 1)))], title=TEXT, x_label=TEXT),
        stacked_bar([(TEXT, 1.0)], title=TEXT),
    ]
    for chart in charts:
        svg = parsed(chart)
        assert {element.tag for element in svg.iter()} <= {"svg", "g", "rect", "line", "text", "title", "path"}
        assert all("style" not in element.attrib for element in svg.iter())
        assert svg.get("aria-label") == TEXT


@given(st.floats(-5, 5), st.floats(1e-3, 20))
def test_labels_of_an_axis_stand_where_their_number_is(low, width):
    for share, text in edge_labels(low, low + width):
        assert 0 <= share <= 1
        assert float(text) == pytest.approx(low + share * width, abs=0.01 * max(1.0, abs(low) + width))
