"""Names of controls, contrast of every text as it is painted, and keys that something else uses already."""

import pytest

from tests.viewer.builders import TWO, annotated, pages_of, quarantined_because

pytestmark = pytest.mark.browser

# A select is no name of its own: what it offers is its value.
UNNAMED = """
[...document.querySelectorAll("button, input, select, a, [role=img], img")]
  .filter((e) => !(e.ariaLabel || e.labels?.length || e.alt || (!e.matches("input, select") && e.textContent.trim())))
  .map((e) => e.outerHTML)
"""
# WCAG 2.2, 1.4.3, of each text on what is painted below it; of placeholders too. Letters over pictures have an outline.
FAINT = """
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], ground) => [r, g, b].map((value, at) => a * value + (1 - a) * ground[at]);
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const path = (e) => (e === null ? [] : [...path(e.parentElement), e]);
  const painted = (e) => rgba(getComputedStyle(e).backgroundColor);
  const ground = (e) => path(e).reduce((below, each) => over(painted(each), below), [255, 255, 255]);
  const opacity = (e) => path(e).reduce((product, each) => product * getComputedStyle(each).opacity, 1);
  const found = [];
  const measure = (e, style, text) => {
    const below = ground(e);
    const [r, g, b, a] = rgba(e.closest("svg") ? style.fill : style.color);
    const own = style.opacity / getComputedStyle(e).opacity;  // of a placeholder
    const letters = over([r, g, b, a * opacity(e) * own], below);
    const [light, dark] = [luminance(letters), luminance(below)].sort((x, y) => y - x);
    const ratio = (light + 0.05) / (dark + 0.05);
    const size = parseFloat(style.fontSize);
    const due = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    if (ratio < due) found.push(`${ratio.toFixed(2)} ${e.tagName}.${e.getAttribute("class")} ${text}`);
  };
  for (const e of document.body.querySelectorAll("*")) {
    const isSeen = e.checkVisibility({ visibilityProperty: true });
    if (!isSeen || e.closest(".overlay, script, noscript, option, title, .unseen")) continue;
    const text = [...e.childNodes].map((node) => (node.nodeType === 3 ? node.data.trim() : "")).join("");
    if (text) measure(e, getComputedStyle(e), text);
    if (e.placeholder) measure(e, getComputedStyle(e, "::placeholder"), e.placeholder);
  }
  return found;
}
"""


@pytest.mark.parametrize("name", ["index.html", "quality.html"])
def test_every_control_has_a_name_and_a_select_one_beside_its_options(open_page, pages, name):
    page = open_page((pages / name).as_uri())
    assert page.evaluate(UNNAMED) == []
    page.evaluate("document.body.append(document.createElement('select'))")
    page.evaluate("document.body.lastChild.append(new Option('all'))")
    assert page.evaluate(UNNAMED) == ["<select><option>all</option></select>"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_the_gallery_stands_out_from_what_is_below_it(open_page, pages, scheme):
    page = open_page((pages / "index.html").as_uri(), color_scheme=scheme)
    page.locator("#more").click()
    page.locator("#find").fill("circle")
    page.locator("mark").first.wait_for()
    for mask in (0, 1):
        page.locator(f'#tabs [data-mask="{mask}"]').click()
        page.locator("#expressions .line").last.click()
        assert page.evaluate(FAINT) == []
    page.locator('.card >> nth=0 >> svg .mask[data-mask="0"]').hover()
    assert page.evaluate(FAINT) == []
    page.locator("#help-button").click()
    assert page.evaluate(FAINT) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_the_quality_page_stands_out_in_cells_of_every_heat(open_page, pages, scheme):
    page = open_page((pages / "quality.html").as_uri(), color_scheme=scheme)
    assert page.evaluate(FAINT) == []
    for level in range(11):
        page.locator(".heat tbody td").first.evaluate("(cell, level) => { cell.className = `h${level}`; }", level)
        assert page.evaluate(FAINT) == []


def test_arrows_scroll_a_table_that_is_wider_than_its_place(open_page, tmp_path):
    makers = [(f"{name}.png", lambda entry: annotated(entry, 2, TWO)) for name in "ab"]
    folder = pages_of(
        tmp_path, *makers, ("a name that no phone is wide enough for.png", quarantined_because("wide " * 40))
    )
    page = open_page((folder / "index.html").as_uri())
    region = page.locator("#quarantined .scroll")
    region.evaluate("region => { region.firstElementChild.style.minWidth = '3000px'; }")
    region.focus()
    title = page.locator("#inspector-title").text_content()
    for _ in range(50):
        page.keyboard.press("ArrowRight")
        if region.evaluate("region => region.scrollLeft") > 0:
            break

    assert region.evaluate("region => region.scrollLeft") > 0
    assert page.locator("#inspector-title").text_content() == title
