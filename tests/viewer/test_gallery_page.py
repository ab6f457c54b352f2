"""The gallery's page: what it shows, what of strangers it lets through, its pictures, cards and outlines."""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import itertools
import json
import re
import resource
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.polygons import mask_rings
from pseudoris.primitives.untrusted import printable, visible
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.stage_settings import ImagesConfig
from pseudoris.viewer.gallery_page import THUMBNAIL, check_destination, image_card, write_gallery
from pseudoris.viewer.gallery_sample import Gallery, GalleryImage
from pseudoris.viewer.outlines import FRAME, outline_of
from pseudoris.viewer.pages import embedded_json, run_pictures
from tests.builders.images import encode as encode_image
from tests.builders.images import png_of_header_only
from tests.viewer.builders import (
    annotated,
    encode,
    make_expression,
    make_gallery,
    make_image,
    make_mask,
    make_quarantined,
    make_summary,
    pages_of,
)


class Elements(HTMLParser):
    """Counts elements by name and collects event handlers and texts: what a browser would make of the page."""

    def __init__(self, text):
        super().__init__()
        self.counts, self.handlers, self.styles, self.texts = Counter(), [], [], []
        self.scripts, self._script = [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.counts[tag] += 1
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.styles += [value for name, value in attrs if name == "style"]
        if tag in ("script", "style"):
            self._script = dict(attrs).get("type", tag)

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.texts.append(data)
        else:
            self.scripts.append((self._script, data))


@pytest.fixture
def destination(tmp_path):
    return RunLocation.open(str(tmp_path / "pages"))


@pytest.fixture
def page(destination):
    def write(gallery):
        write_gallery(gallery, destination)
        return destination.read_bytes("index.html").decode()

    return write


def pictures(destination):
    return sorted(file.name for file in destination.list("pictures"))


def test_the_page_shows_the_run_in_numbers_and_its_quarantine_with_reasons(page):
    text = page(make_gallery(images=12345, quarantined=[make_quarantined("broken.jpg", "the header is cut short")]))

    for words in ("<dd>12,345</dd>", "broken.jpg", "the header is cut short", "cannot decode the whole file"):
        assert words in text


def test_every_image_has_its_picture_its_outlines_and_its_record(page, destination):
    first, second = make_image("a.png"), make_image("b.png", masks=[make_mask(4)], expressions=[])
    text = page(make_gallery(first, second))
    records = [json.loads(data) for kind, data in Elements(text).scripts if kind == "application/json"]

    assert pictures(destination) == sorted(f"{image.image_id}.webp" for image in (first, second))
    assert f'src="pictures/{first.image_id}.webp"' in text
    assert text.count('loading="lazy"') == 2
    assert re.findall(r'<path class="mask c(\d+)" data-mask="(\d+)"', text) == [("0", "0"), ("1", "1"), ("0", "0")]
    assert [len(record["expressions"]) for record in records[:2]] == [2, 0]
    tau = {"name": "tau", "label": "τ", "column": "distinctiveness", "comparison": ">", "value": 1.0}
    rule = {"tau": 1.0, "hasTau": True, "conditions": [], "lone": "keep", "bounds": [tau], "score": "distinctiveness"}
    assert records[2] == {**rule, "colours": 36, "pairs": ""}


@pytest.mark.parametrize(
    "word",
    [
        "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&",
        "</style></script><svg onload=document.title='owned'>",
        "javascript:document.title='owned'",
        'x" onmouseover="document.title=\'owned\'" style="--c:red',
        "x' onerror='document.title=1",
        "--></style></title></textarea></script><script>document.title=1</script>",
        "<!--<script>",
        "<![CDATA[<img src=x onerror=document.title=1>]]>",
        "{{ 7 * 7 }}{% raw %}",
        "\x00\x1b]0;owned\x07\x08\x7f\x9b",
        "a\u202egnp.b\u2066\u2069\u200f",
        "\u2028\u2029\ufeff\ufffe",
        "&lt;script&gt;&#60;b&#62;",
    ],
)
def test_no_word_of_a_stranger_is_more_than_a_word(page, word):
    def elements(text):
        expressions = [make_expression(text, head_noun=text), make_expression(text, distinctiveness=0.5, kept=False)]
        image = make_image(quote(text), expressions=expressions)
        return Elements(page(make_gallery(image, source=text, quarantined=[make_quarantined(text, text)])))

    found = elements(word)
    assert found.counts == elements("a word").counts
    assert (found.handlers, found.styles) == ([], [])
    record = next(json.loads(data) for kind, data in found.scripts if kind == "application/json")
    # Control characters and signs of direction are spelled.
    shown = printable(word)
    assert [e["text"] for e in record["expressions"]] == [shown, shown]
    # The run, its title, the image and its message: the words are all there.
    assert sum(shown.strip() in text for text in found.texts) >= 4


def test_the_policy_names_the_scripts_and_the_style_that_the_page_holds_and_no_more(page):
    text = page(make_gallery())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    inline = [(kind, data) for kind, data in Elements(text).scripts if kind != "application/json"]
    digests = {
        kind: [base64.b64encode(hashlib.sha256(data.encode()).digest()).decode() for k, data in inline if k == kind]
        for kind in ("script", "style")
    }

    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests["script"])
    assert rules["style-src"] == " ".join(f"'sha256-{digest}'" for digest in digests["style"])
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "'self'")


def test_a_page_replaces_the_one_before_and_takes_its_pictures_away(page, destination):
    old, new = make_image("old.png"), make_image("new.png")
    page(make_gallery(old, source="first"))
    destination.replace("pictures/mine.webp", b"somebody's own")
    # Of a gallery that was killed.
    for path in ("index.html", "pictures/a.webp"):
        destination.temporary_path(path).write_bytes(b"half")
    text = page(make_gallery(new, source="second"))

    assert "<title>Gallery of second</title>" in text
    assert pictures(destination) == sorted([f"{new.image_id}.webp", "mine.webp"])
    assert [*destination.list_temporary(""), *destination.list_temporary("pictures")] == []


def test_a_failed_gallery_leaves_the_page_before_it(page, destination):
    page(make_gallery(source="first"))

    def broken():
        yield make_image()
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_gallery(Gallery(make_summary(), broken(), 2), destination)
    assert b"<title>Gallery of first</title>" in destination.read_bytes("index.html")


def test_pages_are_not_mixed_into_a_folder_of_other_files(page, destination):
    destination.replace("a.jpg", b"a photograph")
    with pytest.raises(ConfigError, match=r"holds other files: a\.jpg\. Name a new or an empty folder with --to"):
        check_destination(destination)
    # A gallery that stands there, as an earlier version wrote it, is written again.
    page(make_gallery())
    check_destination(destination)


def test_a_page_of_somebody_else_is_not_overwritten(page, destination):
    check_destination(destination)
    page(make_gallery())
    check_destination(destination)
    destination.replace("index.html", b"<h1>my thesis</h1>")

    with pytest.raises(ConfigError, match=r"index\.html is not a page of a gallery\. Name another folder with --to"):
        check_destination(destination)


@pytest.mark.slow
def test_images_are_read_one_after_another_and_not_held(destination):
    alive = []

    def images():
        for number in range(8):
            image = make_image(f"{number}.png", masks=[make_mask()], expressions=[])
            # What still refers to an image when the next one is asked for: its own name, and nothing of the page.
            alive.append(sum(isinstance(each, GalleryImage) for each in gc.get_objects()))
            yield image

    write_gallery(Gallery(make_summary(), images(), 8), destination)

    assert max(alive[2:]) <= alive[1] + 1


def opened(data):
    image = Image.open(io.BytesIO(data))
    assert image.format == "WEBP"
    return image


def thumbnail(data):
    with run_pictures(THUMBNAIL) as small:
        return small(data, ImagesConfig())


def test_a_bomb_in_the_run_of_a_stranger_is_not_opened():
    assert thumbnail(png_of_header_only(30_000, 30_000)) is None


@pytest.mark.slow
@pytest.mark.long
def test_a_small_file_of_many_pixels_costs_the_process_of_the_command_no_memory():
    # 420 KB that took 1.7 GB: it is decoded, or killed by its limit, elsewhere.
    data = encode_image(Image.new("LA", (9_000, 9_000), (7, 200)))
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert opened(thumbnail(data)).size == (800, 800)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 50_000


@pytest.mark.parametrize("indices", [(7, 8), (7, 8, 9, 10, 11, 12), (100, 101)])
def test_numbers_of_masks_that_lie_on_each_other_do_not_cover_each_other(indices):
    card = image_card(make_image(masks=[make_mask(index) for index in indices], expressions=[]), picture=None)
    places = [(len(str(mask.index)), *mask.outline.label_xy) for mask in card["masks"]]
    for (digits, x, y), (others, other_x, other_y) in itertools.combinations(places, 2):
        # 17 px of a bold font: a digit is about 10 px wide.
        assert abs(x - other_x) >= 5 * (digits + others) or abs(y - other_y) >= 17
    assert all(0 <= x <= card["width"] and 0 <= y <= card["height"] for _, x, y in places)


def test_a_damaged_mask_has_no_outline_and_the_card_stands():
    card = image_card(make_image(masks=[make_mask(0, counts="zzz"), make_mask(1)], expressions=[]), picture=None)

    assert [shape.outline is None for shape in card["masks"]] == [True, False]
    assert [mask["damaged"] for mask in json.loads(card["record"])["masks"]] == [True, False]


@given(st.text())
def test_json_in_a_page_reads_back_and_ends_no_element(text):
    written = str(embedded_json({"text": text}))

    assert json.loads(written) == {"text": visible(text)}
    assert "<" not in written


def fill(loops, shape):
    """Fill loops of pixel corners by the rule `evenodd`: a pixel is in where a ray to the left crosses odd borders."""
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=int)
    for loop in loops:
        for (x0, y0), (x1, y1) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
            if x0 == x1:
                crossings[int(min(y0, y1)) : int(max(y0, y1)), int(x0)] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_a_masks_rings_fill_exactly_its_pixels(mask):
    np.testing.assert_array_equal(fill(mask_rings(mask), mask.shape), mask)


def test_an_outline_stays_within_a_pixel_of_the_mask():
    image = Image.new("1", (300, 200))
    ImageDraw.Draw(image).ellipse((40, 30, 250, 170), fill=1)
    mask = np.asarray(image)
    scale = FRAME / 300
    drawn = Image.new("1", (300, 200))
    (loop,) = re.findall(r"M([^Z]+)Z", outline_of(encode(mask), mask.shape).path)
    ImageDraw.Draw(drawn).polygon([float(each) / scale for each in loop.replace("L", " ").split()], fill=1)
    overlap = (np.asarray(drawn) & mask).sum() / (np.asarray(drawn) | mask).sum()

    assert overlap > 0.97


@pytest.mark.parametrize("size", [(2**20, 2**20), (0, 5), (5, 0), (-3, -5)])
def test_a_mask_of_an_absurd_size_is_refused_before_memory_is_taken(size):
    with pytest.raises(ValueError, match="1 to 1,073,741,824 are allowed"):
        outline_of("0", size)


SAID = "The preset tiny knows drawn scenes alone: of photographs it makes nonsense."


@pytest.mark.parametrize(
    ("preset", "origin", "is_said"),
    [("tiny", "annotate", True), ("tiny", "import", False), ("base", "annotate", False)],
)
def test_pages_say_of_a_preset_of_drawings_what_it_knows(tmp_path, preset, origin, is_said):
    folder = pages_of(tmp_path, ("a.png", annotated), origin=origin, config=load_config(preset))
    assert [SAID in (folder / name).read_text() for name in ("index.html", "quality.html")] == [is_said, is_said]
