"""The gallery and the quality page in headless Chromium, from a run through the command to what a person does."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from pseudoris.cli.gallery import write_pages
from pseudoris.files.location import RunLocation
from pseudoris.schemas.keep_rule import parse_conditions
from pseudoris.store.sessions.refiltered_run import RuleChange, refilter
from pseudoris.store.tables.open_run import OpenRun
from tests.builders.scored_runs import scored_run
from tests.builders.web import serving_folder
from tests.interchange.exports.builders import build_run_of_several
from tests.viewer.builders import TWO, annotated, pages_of, quarantined_because, set_tau

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'`${1}"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="document.title=\'owned\'"><script>alert(1)</script></svg>'


@pytest.fixture
def page(open_page, pages):
    return open_page((pages / "index.html").as_uri())


def shown(page):
    return [card.inner_text() for card in page.locator(".card:visible h2").all()]


def test_the_slider_filters_live_and_shows_the_yield(page):
    yielded = page.locator("#yield")
    of = "(3 images on this page)"
    assert yielded.inner_text() == f"2 kept of 4 (50 %) · 0.67 expressions per mask · 67 % of masks have one {of}"

    set_tau(page, 1.25)
    page.locator("#yield >> text=3 kept").wait_for()
    assert yielded.inner_text() == f"3 kept of 4 (75 %) · 1.00 expressions per mask · 100 % of masks have one {of}"
    assert page.locator("#tau-value").inner_text() == "1.25"

    page.locator("#tau-reset").click()
    page.locator("#yield >> text=2 kept").wait_for()


def test_the_yield_says_that_expressions_of_no_object_are_not_counted_per_mask(open_page, tmp_path):
    run = build_run_of_several(RunLocation.open(str(tmp_path / "run")))
    page = open_page(Path(write_pages(run.location.root)).as_uri())
    assert " expressions per mask · " in page.locator("#yield").inner_text()


def test_at_the_runs_own_threshold_the_table_decides_and_what_people_wrote_is_always_kept(open_page, tmp_path):
    human = {"source": "human", "samples": (), "kept": True, "correctness": None}
    said = [
        (0, "a by another rule", 1.5, 1, {"kept": False}),
        (0, "b by another rule", 1.2, 1, {"kept": True}),
        (1, "c by a person", None, None, human),
    ]
    folder = pages_of(tmp_path, ("a.png", lambda entry: annotated(entry, 2, said)))
    page = open_page((folder / "index.html").as_uri())

    def reasons(mask):
        page.locator(f'#tabs [data-mask="{mask}"]').click()
        return [line.inner_text().split("\n")[:2] for line in page.locator("#expressions .line").all()]

    rule = [["b by another rule ×2", "by the run's rule"], ["a by another rule ×2", "by the run's rule"]]
    assert (reasons(0), reasons(1)) == (rule, [["c by a person", "written by a human"]])
    set_tau(page, 1.3)
    page.locator("#yield >> text=2 kept").wait_for()
    assert reasons(0)[0][0] == "a by another rule ×2"
    assert page.locator("#expressions .kept").count() == 1


def test_filters_by_status_score_and_length_narrow_what_is_shown(page):
    page.get_by_role("button", name="Kept", exact=True).click()
    page.locator("#shown >> text=2 expressions in 2 of 3 images match").wait_for()
    page.get_by_role("button", name="All", exact=True).click()
    page.locator("#more").click()
    page.get_by_label("least distinctiveness").fill("1.3")
    page.locator("#shown >> text=2 expressions in 1 of 3 images match").wait_for()
    assert shown(page) == ["two.png"]
    page.locator("#clear").click()
    page.get_by_label("least words").fill("4")
    page.locator("#shown >> text=1 expression in 1 of 3 images match").wait_for()
    assert shown(page) == ["lone.png"]


def test_search_finds_words_and_file_names_and_marks_them(page):
    page.keyboard.press("/")
    page.keyboard.type("Snow lone")
    page.locator("#shown >> text=1 expression in 1 of 3 images match").wait_for()
    # Each letter searches: the first one alone may have matched as many.
    page.locator(".card:visible mark >> text=lone").wait_for()

    assert [mark.inner_text() for mark in page.locator(".card:visible mark").all()] == ["lone", "snow"]
    page.keyboard.press("Control+A")
    page.keyboard.type("bare.png")
    page.locator(".card >> nth=2").wait_for()
    # Each letter searches: after the first, another card may still be there.
    for other in (0, 1):
        page.locator(f".card >> nth={other}").wait_for(state="hidden")
    assert shown(page) == ["bare.png"]
    page.locator("#find").fill("no such word")
    page.locator("#nobody-reset").click()
    page.locator(".card >> nth=0").wait_for()
    assert len(shown(page)) == 3


def test_the_keyboard_leads_through_images_masks_and_expressions_and_back(page):
    title = page.locator("#inspector-title")
    pressed = page.locator('.tab[aria-pressed="true"]')
    page.keyboard.press("ArrowRight")
    assert title.inner_text() == "lone.png"
    page.keyboard.press("ArrowLeft")
    assert (title.inner_text(), pressed.get_attribute("data-mask")) == ("two.png", "0")
    page.keyboard.press("ArrowDown")
    assert pressed.get_attribute("data-mask") == "1"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowDown")
    assert page.locator(".expression.is-open .text").inner_text() == "the dotted circle"
    page.keyboard.press("Escape")
    assert page.locator(".expression.is-open").count() == 0
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className").startswith("row")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()


@pytest.mark.long
def test_pictures_load_as_they_come_near_and_rows_exist_only_there(open_page, tmp_path):
    makers = [(f"{n:03}.png", lambda entry: annotated(entry, 2, TWO)) for n in range(60)]
    folder = pages_of(tmp_path, *makers)
    asked = []
    with serving_folder(folder) as address:
        page = open_page("about:blank")
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/index.html")
        page.locator(".row").first.wait_for()
        at_first = sum("pictures/" in url for url in asked)
        rows = page.locator(".row").count()
        page.locator(".card >> nth=59").scroll_into_view_if_needed()
        page.locator(".card >> nth=59 >> .row").first.wait_for()
        page.wait_for_load_state("networkidle")
        # Before the server ends: what still loads then is an error of the page.
        page.close()

    assert 0 < at_first < 40
    assert 0 < rows < 60
    assert all(url.startswith(address) for url in asked)


def test_one_click_on_the_number_of_quarantined_images_brings_them_into_view(open_page, tmp_path):
    # Higher than the estimate of a card that was never near the window.
    long = [(0, f"{number} circles {'in the snow beside a house ' * 9}", 1.5, None) for number in range(4)]
    makers = [(f"{n:03}.png", lambda entry: annotated(entry, 1, long)) for n in range(60)]
    folder = pages_of(tmp_path, *makers, ("broken.png", quarantined_because("the header is cut short")))
    page = open_page((folder / "index.html").as_uri(), viewport={"width": 600, "height": 800})
    page.get_by_role("link", name="quarantined").click()
    page.locator(".card >> nth=59 >> .row").first.wait_for()

    assert page.locator("#quarantined h2").bounding_box()["y"] < 800


@pytest.mark.long
def test_the_pages_work_from_a_static_server_as_from_a_disk(open_page, pages):
    with serving_folder(pages) as address:
        page = open_page(f"{address}/index.html")
        from_disk = open_page((pages / "index.html").as_uri())
        for each in (page, from_disk):
            each.get_by_role("link", name="Quality").click()
            each.get_by_role("heading", name="Distinctiveness").wait_for()
            each.get_by_role("link", name="Gallery").click()
            each.locator("#yield >> text=2 kept").wait_for()
            # A card stands before its picture has come.
            # Waiting for a condition evaluates text in the page, which its policy forbids.
            each.locator(".card img").first.evaluate("picture => picture.decode()")
            assert each.evaluate("document.querySelector('.card img').naturalWidth") == 90


def test_no_key_caption_message_or_picture_of_a_stranger_runs_anything(open_page, tmp_path):
    bait = [
        HOSTILE,
        "javascript:document.title='owned'",
        "\u2028{{ 7 * 7 }}<!--<script>",
        '" autofocus onfocus=alert(1) "',
    ]
    candidates = [(0, text, 1.5, 1) for text in bait] + [(1, HOSTILE, 1.1, 0)]
    folder = pages_of(
        tmp_path,
        (quote(f"{HOSTILE}.png"), lambda entry: annotated(entry, 2, candidates)),
        ("an image.png", lambda entry: annotated(entry, 2, candidates, data=SVG)),
        (quote(f"{HOSTILE}2.png"), quarantined_because(HOSTILE)),
    )
    page = open_page((folder / "index.html").as_uri())
    for line in range(4):
        page.locator("#expressions .line").nth(line).click()
    page.locator('.card >> nth=0 >> svg .mask[data-mask="0"]').hover()
    page.locator("#find").fill("<script>")
    page.locator("mark").first.wait_for()

    assert page.title().startswith("Gallery of")
    scripts = page.evaluate("[...document.scripts].map((script) => script.type)")
    assert sorted(scripts) == ["", "", *["application/json"] * 3]
    assert page.locator("img[src=x], [onerror], [onload], [onfocus], main svg script").count() == 0
    assert page.locator("#expressions .text").first.inner_text() in bait
    assert page.locator(".card >> nth=1 >> .absent").count() == 1
    assert [path.suffix for path in (folder / "pictures").iterdir()] == [".webp"]
    quality = open_page((folder / "quality.html").as_uri())
    assert quality.title().startswith("Quality of")
    assert quality.locator("img, [onerror], [onload], [onfocus]").count() == 0


def test_the_note_instead_of_a_picture_stands_above_the_masks(open_page, tmp_path):
    folder = pages_of(tmp_path, ("a.png", lambda entry: annotated(entry, 3, TWO, data=SVG)))
    note = open_page((folder / "index.html").as_uri()).locator(".card .absent")
    assert note.inner_text() == "The image cannot be read here."
    at_its_middle = "document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2)"
    assert note.evaluate(f"note => {{ const box = note.getBoundingClientRect(); return {at_its_middle} === note; }}")


def test_the_policy_stops_what_an_escape_let_through(chromium, pages, tmp_path):
    text = (pages / "index.html").read_text(encoding="utf-8")
    injected = f"{HOSTILE}<style>* {{ color: red }}</style>"
    (tmp_path / "page.html").write_text(text.replace("<main", f"{injected}<main"), encoding="utf-8")
    page = chromium.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    refused = "try { document.body.innerHTML = '<b>x</b>'; false } catch { true }"

    assert page.title().startswith("Gallery of")
    assert page.evaluate("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
    assert page.evaluate(refused) is True
    page.close()


@pytest.mark.parametrize("target", [".row >> nth=0", '.overlay [data-mask="1"]'])
def test_on_a_phone_a_tap_opens_a_sheet_that_takes_the_focus_and_gives_it_back(open_page, pages, target):
    page = open_page((pages / "index.html").as_uri(), has_touch=True, is_mobile=True)
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(f".card >> nth=0 >> {target}").tap()

    page.locator("#inspector.is-open").wait_for()
    assert page.evaluate("document.activeElement.id") == "inspector"
    assert page.locator("#peek").is_hidden()
    pressed = page.locator('.tab[aria-pressed="true"]').get_attribute("data-mask")
    assert pressed == ("0" if "row" in target else "1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#close").tap()
    page.locator("#inspector").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.closest('.card') === document.querySelector('.card')")


MEETING = [
    (0, "meets neither", 1.2, 1, {"kept": False, "correctness": 0.25}),
    (0, "meets tau alone", 1.5, 1, {"kept": False, "correctness": 0.25}),
    (1, "meets both", 1.5, 0, {"kept": True, "correctness": 6.0}),
]


def reasons_of(page, mask):
    page.locator(f'#tabs [data-mask="{mask}"]').click()
    found = {}
    for number in range(page.locator("#expressions .line").count()):
        line = page.locator("#expressions .line").nth(number)
        text, *rest = line.inner_text().split("\n")
        line.click()
        found[text.removesuffix(" ×2")] = (rest[0], page.locator("#expressions .is-open .why").inner_text())
    return found


def test_a_condition_that_is_not_met_is_named_as_the_reason(open_page, tmp_path):
    maker = ("a.png", lambda entry: annotated(entry, 2, MEETING))
    folder = pages_of(tmp_path, maker, settings=["filtering.keep=[correctness > 5]"])
    page = open_page((folder / "index.html").as_uri())

    told = reasons_of(page, 0)
    assert told["meets tau alone"] == (
        "not correctness > 5",
        "Not kept. The rule of the run has more conditions: its correctness of 0.250 does not meet correctness > 5.",
    )
    assert told["meets neither"][1].endswith("Also, its correctness of 0.250 does not meet correctness > 5.")
    set_tau(page, 1.1)
    page.locator("#yield >> text=1 kept of 3").wait_for()


def test_where_another_scorer_decided_tau_is_no_reason(open_page, tmp_path):
    said = [(0, "kept by it", 1.1, 1, {"kept": True}), (0, "rejected by it", 1.9, 1, {"kept": False})]
    maker = ("a.png", lambda entry: annotated(entry, 2, said))
    folder = pages_of(tmp_path, maker, settings=["filtering.engine=siglip"])
    page = open_page((folder / "index.html").as_uri())

    told = reasons_of(page, 0)
    assert told["kept by it"][1].startswith("Kept. A plug-in scorer kept it. Its bound is not known here.")
    assert told["rejected by it"][1].startswith("Not kept. A plug-in scorer rejected it")
    quality = (folder / "quality.html").read_text(encoding="utf-8")
    assert "kept captions by its own bound, which may differ from filtering.tau = " in quality
    assert 'class="marker"' not in quality


@pytest.mark.long
def test_the_slider_keeps_what_refilter_keeps_at_every_tau(open_page, tmp_path):
    run = RunLocation.open(str(tmp_path / "run"))
    scored_run(run, "filtering.keep=[correctness >= 0.5, log_prob > -7, count < 4]", has_humans=True)
    write_pages(run.root)
    page = open_page((tmp_path / "run" / "gallery" / "index.html").as_uri())

    for tau in (0.7, 0.9, 1.2, 1.5):
        totals = refilter(run, RunLocation.open(str(tmp_path / f"at {tau}")), RuleChange(tau)).totals
        set_tau(page, tau)
        page.locator(f"#tau-value >> text=/^{tau}$/").wait_for()
        # The figures follow in the next frame.
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        shown = re.sub(r"\s", "", page.locator("#yield b").first.inner_text())
        assert (tau, int(shown)) == (tau, totals.kept)


VERSION = Path(__file__).parents[1] / "versions" / "0.6.0"


@pytest.mark.slow
def test_of_a_composed_run_the_slider_moves_its_confidence_as_refilter_does(open_page, tmp_path):
    shutil.copytree(VERSION / "finished", tmp_path / "run")
    run = RunLocation.open(str(tmp_path / "run"))
    write_pages(run.root, source=[str(VERSION / "images")])
    page = open_page((tmp_path / "run" / "gallery" / "index.html").as_uri())
    assert page.locator("#bound").input_value() == "confidence"
    assert page.locator("#tau-value").inner_text() == "0.94"
    scores = page.locator("#expressions .value").all_inner_texts()
    assert scores
    assert "–" not in scores
    kinds = ("attribute", "group", "none", "position", "relation")
    rules = {
        ("confidence", 0.8): ["confidence > 0.8", "rank <= 3"],
        ("composed", 0.96): [f"{kind} > 0.96" for kind in kinds],
    }
    for (name, value), keep in rules.items():
        new = RunLocation.open(str(tmp_path / name))
        totals = refilter(run, new, RuleChange(keep=parse_conditions(keep))).totals
        page.select_option("#bound", name)
        set_tau(page, value)
        page.locator(f"#yield >> text={totals.kept} kept of {totals.expressions}").wait_for()
    page.select_option("#bound", "tau")
    page.locator("#more").click()
    page.select_option("#source", "composer")
    page.select_option("#kind", "position")
    num_positions = OpenRun.at(run).table("expressions")["kind"].to_pylist().count("position")
    page.locator(f"#shown >> text={num_positions} expressions in").wait_for()
    page.wait_for_function("() => location.hash.includes('source=composer&kind=position')")


def test_of_several_masks_the_tables_word_stands_at_every_tau(open_page, tmp_path):
    def of_both(entry):
        image = annotated(entry, 2, [(0, "both of them", 0.9, None), (1, "a circle", 1.5, 0)])
        both, one = image.expressions
        group = replace(both, target_mask_ids=tuple(mask.mask_id for mask in image.masks), kind="group", kept=True)
        return replace(image, expressions=(group, one))

    page = open_page((pages_of(tmp_path, ("a.png", of_both)) / "index.html").as_uri())
    set_tau(page, 1.6)
    page.locator("#yield >> text=1 kept of 2").wait_for()

    page.locator('#tabs [data-mask="0"]').click()
    assert page.locator("#expressions .kept .reason").inner_text() == "of several masks"
