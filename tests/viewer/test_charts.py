import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.viewer.charts import (
    HEIGHT_PX,
    Bar,
    Line,
    Marker,
    edge_labels,
    histogram,
    line_chart,
    stacked_bar,
)

HOSTILE = "</title></svg><script>alert(1)</script>\"'&"


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


def test_a_marker_stands_at_its_share_and_the_lines_end_where_the_data_does():
    marked = parsed(histogram([Bar(1, 1, "")] * 4, title="", marker=Marker(0.25, "τ = 1")))
    lines = parsed(line_chart([Line("all", ((0, 0), (10, 4)))], title="", x_label="expressions"))
    (path,) = lines.iter("path")

    assert [line.get("x1") for line in marked.iter("line") if line.get("class") == "marker"] == ["25.000%"]
    assert path.get("d") == f"M0.000 {HEIGHT_PX:.2f}L100.000 0.00"


def test_every_text_is_escaped_and_nothing_needs_a_style():
    charts = [
        histogram([Bar(1, 1, HOSTILE)], title=HOSTILE, labels=[(0.5, HOSTILE)], marker=Marker(0.9, HOSTILE)),
        line_chart([Line(HOSTILE, ((0, 0), (1, 1)))], title=HOSTILE, x_label=HOSTILE),
        stacked_bar([(HOSTILE, 1.0)], title=HOSTILE),
    ]
    for chart in charts:
        svg = parsed(chart)
        assert {element.tag for element in svg.iter()} <= {"svg", "g", "rect", "line", "text", "title", "path"}
        assert all("style" not in element.attrib for element in svg.iter())
        assert svg.get("aria-label") == HOSTILE


@given(st.floats(-5, 5), st.floats(1e-3, 20))
def test_labels_of_an_axis_stand_where_their_number_is(low, width):
    for share, text in edge_labels(low, low + width):
        assert 0 <= share <= 1
        assert float(text) == pytest.approx(low + share * width, abs=0.01 * max(1.0, abs(low) + width))
