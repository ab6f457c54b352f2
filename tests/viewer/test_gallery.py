import os
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import quote

import pytest

from tests.viewer.builders import make_expression, make_gallery, make_image, make_mask, make_quarantined, make_summary
from viewer.gallery import iter_gallery, write_gallery
from viewer.model import Gallery, GalleryImage, GalleryMask

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'\"&"
HOSTILE_STYLE = "</style></script><svg onload=document.title='owned'>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def page(gallery):
    return "".join(iter_gallery(gallery))


class Elements(HTMLParser):
    """Counts elements by name and collects event handlers: what a browser would run."""

    def __init__(self, text):
        super().__init__()
        self.counts, self.handlers, self.texts = Counter(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.counts[tag] += 1
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.texts.append(data)


def hostile_gallery():
    expression = make_expression(HOSTILE, head_noun="<script>")
    rejected = make_expression(HOSTILE_STYLE, distinctiveness=0.5, kept=False)
    image = make_image(f"a/{HOSTILE}", masks=[make_mask(expressions=[expression, rejected]), make_mask(1)])
    return make_gallery(image, source=HOSTILE, quarantined=[make_quarantined(HOSTILE, HOSTILE_STYLE)])


def test_the_page_shows_expressions_scores_and_why_one_was_rejected():
    text = page(make_gallery())

    assert "the red <b>circle</b>" in text
    assert re.search(r"distinctiveness\">d</abbr> 1\.20", text)
    assert "fits mask 1 better" in text


def test_the_page_shows_the_run_in_numbers_and_its_quarantine_with_reasons():
    text = page(make_gallery(images=12345, quarantined=[make_quarantined("broken.jpg", "the header is cut short")]))

    assert "<dd>12,345</dd>" in text
    assert "broken.jpg" in text
    assert "the header is cut short" in text
    assert "cannot decode the bytes to the end" in text


def test_a_sample_and_an_unfinished_run_say_so():
    text = page(make_gallery(annotated=900, empty=100, is_complete=False))

    assert re.search(r"1 of 1,000 images shown", text)
    assert "The run is not complete" in text


def test_an_image_without_a_mask_and_one_without_a_picture_say_so():
    text = page(make_gallery(make_image(masks=()), make_image(data=b"gone")))

    assert "No mask survived in this image" in text
    assert "The picture cannot be read any more" in text


def test_a_run_without_images_has_a_page():
    summary = make_summary(images=0, annotated=0, empty=0, quarantined=0, masks=0, candidates=0, kept=0)

    assert "0 of 0 images shown" in page(Gallery(summary, (), 0))


def test_every_mask_has_an_outline_an_entry_and_the_same_colour_for_both():
    text = page(make_gallery())

    for index in (0, 1):
        colours = re.findall(rf'data-mask="{index}" style="--c:(oklch\([^)]*\))"', text)
        assert len(colours) == 2
        assert len(set(colours)) == 1


def test_captions_keys_and_messages_are_escaped_everywhere():
    text = page(hostile_gallery())

    found = Elements(text)

    assert (found.counts["script"], found.counts["style"], found.counts["img"], found.counts["svg"]) == (1, 1, 1, 1)
    assert found.handlers == []
    assert "&lt;script&gt;" in text


def test_the_page_asks_for_nothing_beside_itself():
    text = page(make_gallery())
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)|@import""", text)

    assert all(link[0].startswith(("data:", "#")) for link in links)


def test_equal_galleries_give_equal_pages():
    assert page(make_gallery()) == page(make_gallery())


def test_images_are_read_one_after_another():
    read = []

    def images():
        for number in range(200):
            read.append(number)
            yield make_image(f"{number}.png", masks=[make_mask()])

    pieces = iter_gallery(Gallery(make_summary(), images(), 200))
    next(pieces)

    assert len(read) < 20


def test_a_page_replaces_the_one_before_and_a_failed_one_leaves_it(tmp_path):
    target = write_gallery(make_gallery(source="first"), tmp_path / "gallery.html")

    def broken():
        yield make_image()
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        write_gallery(Gallery(make_summary(), broken(), 2), target)

    assert "<title>Gallery of first</title>" in target.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["gallery.html"]


def in_chromium(path, profile, *options):
    """Run headless Chromium on a page. Skips, and in CI fails, where there is none."""
    if CHROMIUM is None:
        message = "no chromium on the PATH: install it to run the browser tests"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    command = [
        *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
        *(f"--user-data-dir={profile}", "--virtual-time-budget=2000", *options, path.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.browser
def test_hostile_captions_and_keys_run_no_script_in_a_browser(tmp_path):
    path = write_gallery(hostile_gallery(), tmp_path / "gallery.html")
    dom = in_chromium(path, tmp_path / "profile", "--dump-dom")

    found = Elements(dom)

    assert "<title>owned" not in dom
    assert (found.counts["script"], found.counts["img"], found.counts["svg"], found.handlers) == (1, 1, 1, [])


@pytest.mark.browser
def test_the_policy_stops_a_script_that_an_escape_let_through(tmp_path):
    path = write_gallery(make_gallery(), tmp_path / "gallery.html")
    injected = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"></body>"
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", injected), encoding="utf-8")

    assert "<title>Gallery of photos/</title>" in in_chromium(path, tmp_path / "profile", "--dump-dom")


@pytest.mark.browser
def test_clicking_a_mask_lights_it_and_opens_its_entry(tmp_path):
    path = write_gallery(make_gallery(), tmp_path / "gallery.html")
    click = "document.querySelector('path[data-mask=\"1\"]').dispatchEvent(new MouseEvent('click',{bubbles:true}))"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text(encoding="utf-8"))
    path.write_text(text.replace("</body>", f"<script>{click}</script></body>"), encoding="utf-8")
    dom = in_chromium(path, tmp_path / "profile", "--dump-dom")

    assert re.search(r'<path class="mask is-active" data-mask="1"', dom)
    assert re.search(r'<details class="entry is-active"[^>]*data-mask="1"[^>]*open=""', dom)
    assert re.search(r'<path class="veil" d="M0 0H', dom)


@pytest.mark.browser
def test_finding_words_hides_the_other_images(tmp_path):
    other = make_image("b.png", masks=[make_mask(expressions=[make_expression("a blue star", head_noun="star")])])
    path = write_gallery(make_gallery(make_image("a.png"), other), tmp_path / "gallery.html")
    find = "const f=document.getElementById('find');f.value='Blue';f.dispatchEvent(new Event('input'))"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text(encoding="utf-8"))
    path.write_text(text.replace("</body>", f"<script>{find}</script></body>"), encoding="utf-8")
    dom = in_chromium(path, tmp_path / "profile", "--dump-dom")

    assert "1 of 2 images match" in dom
    assert dom.count('class="card" aria-labelledby="name-1" hidden=""') == 1


@pytest.mark.parametrize(
    "word",
    [
        "javascript:document.title='owned'",
        'x" onmouseover="document.title=\'owned\'" style="--c:red',
        "x' onerror='document.title=1",
        "--></style></title></textarea></script><script>document.title=1</script>",
        "<![CDATA[<img src=x onerror=document.title=1>]]>",
        "{{ 7 * 7 }}{% raw %}",
        "\x00\x1b]0;owned\x07\x08\x7f\x9b",
        "a\u202egnp.b\u2066\u2069\u200f",
        "\u2028\u2029\ufeff\ufffe",
        "&lt;script&gt;&#60;b&#62;",
    ],
)
def test_no_word_of_a_stranger_is_more_than_a_word(word):
    def elements(text):
        expressions = [make_expression(text), make_expression(text, distinctiveness=0.5, kept=False)]
        image = make_image(quote(text), masks=[make_mask(expressions=expressions), make_mask(1)])
        return Elements(page(make_gallery(image, source=text, quarantined=[make_quarantined(text, text)])))

    found = elements(word)
    assert found.counts == elements("a word").counts
    assert found.handlers == []
    # The run, the image, its kept and rejected expressions, the quarantined one: the words are all there.
    assert sum(word.strip() in text for text in found.texts) >= 5


def test_a_damaged_table_still_has_a_page():
    mask = GalleryMask(0, (0, 0), "", 7, None, (make_expression(),))
    image = GalleryImage("a.png", 0, 0, None, (mask,))
    assert "its encoding is damaged" in page(make_gallery(image))
