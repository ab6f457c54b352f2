"""A gallery as the place to work from: order, marks, addresses of views and pairs."""

import json
from pathlib import Path

import pytest

from pseudoris.audit.audit_folder import VerdictLine
from pseudoris.audit.draw_files import pair_id
from pseudoris.cli.gallery import write_pages
from pseudoris.schemas.ids import image_id, mask_id
from tests.builders.audits import add_answers, small_audit
from tests.store.builders import empty
from tests.viewer.builders import annotated, pages_of

pytestmark = pytest.mark.browser

TEXTS = {"a.png": [(0, "a red circle", 1.5, 1), (1, "a dot", 1.4, 0)], "b.png": [(0, "a <b> square", 1.9, 1)]}
MAKERS = [(key, lambda entry, texts=texts: annotated(entry, 2, texts)) for key, texts in TEXTS.items()]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return (pages_of(tmp_path_factory.mktemp("pages"), ("0.png", empty), *MAKERS) / "index.html").as_uri()


def names(page):
    return page.locator(".card:not([hidden]) h2").all_inner_texts()


def test_a_mark_lasts_is_filtered_by_and_exported_with_the_id_that_an_audit_has(open_page, address, tmp_path):
    page = open_page(address)
    page.locator(".card", has_text="b.png").locator(".row").first.click()
    page.keyboard.press("x")
    page.locator(".marking input").fill("the tail is cut off")
    page.locator(".marking input").press("Tab")
    page.wait_for_function("() => location.hash.includes('pair=')")
    page.reload()
    assert page.locator(".expression.is-open .star").is_visible()
    page.locator("#more").click()
    page.locator("#marks").select_option("marked")
    page.wait_for_function("() => document.querySelectorAll('.card:not([hidden])').length === 1")
    with page.expect_download() as download:
        page.locator("#export-marks").click()
    download.value.save_as(tmp_path / "marks.jsonl")
    (line,) = (tmp_path / "marks.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert (found["text"], found["note"]) == ("a <b> square", "the tail is cut off")
    image = image_id("b.png")
    assert found["pair"] == pair_id(image, [mask_id(image, 0)], "a <b> square")


@pytest.mark.long
def test_a_run_of_other_images_of_the_same_names_does_not_show_the_marks(open_page, address, tmp_path):
    page = open_page(address)
    page.locator(".card", has_text="b.png").locator(".row").first.click()
    page.keyboard.press("x")
    page.locator(".expression.is-open .star").wait_for()
    page.goto((pages_of(tmp_path, *MAKERS, source="other/") / "index.html").as_uri())
    page.locator(".card", has_text="b.png").locator(".row").first.click()
    page.locator(".expression.is-open .marking").wait_for()
    assert not page.locator(".expression.is-open .star").count()
    page.goto(address)
    page.locator(".card", has_text="b.png").locator(".row").first.click()
    page.locator(".expression.is-open .star").wait_for()


def test_an_address_brings_back_filters_order_and_the_open_pair(open_page, address):
    page = open_page(address)
    page.locator("#find").fill("a")
    page.locator("[data-status=kept]").click()
    page.locator("#more").click()
    page.locator("[data-range=distinctiveness] input").first.fill("1.45")
    page.locator("#sort").select_option("lowest distinctiveness")
    page.locator(".card", has_text="b.png").locator(".row").first.click()
    page.wait_for_function("() => location.hash.includes('pair=')")
    again = open_page(page.url)
    again.locator(".expression.is-open").wait_for()
    assert names(again) == ["a.png", "b.png"]
    assert again.locator(".expression.is-open .text").inner_text() == "a <b> square"
    assert again.locator("[data-status=kept]").get_attribute("aria-pressed") == "true"
    open_page(page.url.replace("status=kept", "status=rejected")).locator("#shown", has_text="filters of").wait_for()
    strange = open_page(f"{address}#status=x&pictures=%3Cb%3E&sort=highest+__proto__&tau=x&pair=none&words=a:b")
    strange.locator("#shown", has_text="not on this page").wait_for()
    assert names(strange) == ["a.png", "b.png", "0.png"]
    assert "--image" not in strange.locator("#shown").inner_text()


def test_an_audits_verdicts_are_shown_and_filtered_by(open_page, tmp_path):
    audit = small_audit(tmp_path)
    row = next(row for row in audit.pairs.to_pylist() if row["text"].startswith("a circle"))
    add_answers(audit.path, audit.known, [VerdictLine(pair=row["pair_id"], verdict="not_an_object")])
    page = open_page(Path(write_pages(str(tmp_path / "run"), audit=audit.path)).as_uri())
    page.locator("#more").click()
    page.locator("#verdicts").select_option("not_an_object")
    page.wait_for_function("() => document.querySelectorAll('.card:not([hidden])').length === 1")
    page.locator(".card:not([hidden]) .row").first.click()
    assert "not an object (ana)" in page.locator(".detail").inner_text()
