"""Raters at work in Chromium: from a disk and from a web server, two of them, on a phone, in a full browser."""

import json

import pytest

from pseudoris.audit.audit_folder import AuditFolder, add_file, read_answers
from pseudoris.audit.judging_page import write_judging_page
from pseudoris.files.location import RunLocation
from tests.builders.audits import small_audit
from tests.builders.web import serving_folder

pytestmark = [pytest.mark.browser, pytest.mark.slow]

READY = "#judge:not([hidden])[aria-busy=false], #finished:not([hidden])"
KEYS = {"right": "1", "several": "2", "untrue": "3", "not_an_object": "4", "cannot_say": "5"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return small_audit(tmp_path_factory.mktemp("audit"))


@pytest.fixture
def audit(drawn, tmp_path):
    """A copy without answers."""
    for file in drawn.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return AuditFolder.open(tmp_path)


def ready(page):
    page.wait_for_selector(READY)


def give_verdict(page, verdict="right"):
    """Answer the pair in view by keyboard; return its text."""
    ready(page)
    text = page.locator("#text").inner_text()
    page.keyboard.press(KEYS[verdict])
    ready(page)
    return text


@pytest.fixture
def address(audit, tmp_path):
    """The page, as it opens from a disk."""
    write_judging_page(audit, RunLocation.open(str(tmp_path / "page")))
    return (tmp_path / "page" / "index.html").as_uri()


def downloaded(page, tmp_path):
    """Return the file that the page gives."""
    with page.expect_download() as download:
        page.locator(".download:visible").first.click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    return file


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()[1:]]


def test_twenty_verdicts_by_keyboard_survive_a_closed_browser_tab(open_page, audit, address, tmp_path):
    texts = {row["pair_id"]: row["text"] for row in audit.pairs.to_pylist()}
    assert open_page(f"{address}?rater=A%20M").locator("#start").is_visible()
    page = open_page(f"{address}?rater=ana", accept_downloads=True)
    asked = [give_verdict(page) for _ in range(10)]
    other = page.context.new_page()
    page.close()
    other.goto(f"{address}?rater=ana")
    ready(other)
    assert other.locator("#count").inner_text() == "10 of 24 texts"
    asked += [give_verdict(other) for _ in range(10)]
    found = lines_of(downloaded(other, tmp_path))
    assert [texts[line["pair"]] for line in found] == asked
    assert len({line["pair"] for line in found}) == 20


def test_follow_ups_are_asked_until_one_is_right_and_an_undo_takes_each_answer_back(open_page, address, tmp_path):
    page = open_page(f"{address}?rater=ana", accept_downloads=True)
    for _ in range(24):
        first = give_verdict(page, "untrue")
        if "Another text" in page.locator("#task").inner_text():
            break
    second = give_verdict(page, "right")
    assert "Another text" not in page.locator("#task").inner_text()
    for text in (second, first):
        page.keyboard.press("u")
        page.wait_for_function("text => document.querySelector('#text').textContent === text", arg=text)
        ready(page)
    give_verdict(page, "right")
    assert "Another text" not in page.locator("#task").inner_text()
    kinds = [line["line"] for line in lines_of(downloaded(page, tmp_path))][-4:]
    assert kinds == ["verdict", "undo", "undo", "verdict"]


def test_an_absence_is_asked_without_outlines_and_no_means_that_it_is_right(open_page, tmp_path):
    audit = small_audit(tmp_path, num_pairs=100, absences=("the red star", "the aqua star"))
    write_judging_page(audit, RunLocation.open(str(tmp_path / "page")))
    page = open_page(f"{(tmp_path / 'page' / 'index.html').as_uri()}?rater=ana", accept_downloads=True)
    asked = []
    ready(page)
    while len(set(asked)) < 2:
        is_absence = page.locator("#outlines path").count() == 0
        assert page.locator("#answers button").count() == (3 if is_absence else 5)
        text = give_verdict(page, "right")
        asked += [text] if is_absence else []
    assert set(asked) == {"Is there a red star in the picture?", "Is there an aqua star in the picture?"}
    verdicts = {line["pair"]: line["verdict"] for line in lines_of(downloaded(page, tmp_path))}
    absences = [row["pair_id"] for row in audit.pairs.to_pylist() if not row["mask_ids"]]
    assert [verdicts[pair] for pair in absences if pair in verdicts] == ["right"] * len(asked)


@pytest.mark.long
def test_a_static_page_stores_in_the_browser_and_gives_the_file_that_add_reads(open_page, audit, tmp_path):
    write_judging_page(audit, RunLocation.open(str(tmp_path / "page")))
    with serving_folder(tmp_path / "page") as address:
        page = open_page(f"{address}/index.html?rater=eva", accept_downloads=True)
        ready(page)
        page.keyboard.press("c")
        page.locator("#comment").fill("déjà vu — 一 \n<b>")
        page.keyboard.press("Enter")
        give_verdict(page)
        page.reload()
        for _ in range(23):
            give_verdict(page)
        # Searched pictures come last: two clicks, one of them taken back.
        ready(page)
        box = page.locator("#picture").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.keyboard.press("u")
        for _ in range(3):
            ready(page)
            page.keyboard.press("Enter")
        page.wait_for_selector("#finished:not([hidden])")
        for key in ("?", "Escape", "u"):
            page.keyboard.press(key)
            page.wait_for_selector("#help[open]" if key == "?" else "#help:not([open])", state="attached")
        ready(page)
        page.keyboard.press("Enter")
        page.wait_for_selector("#finished:not([hidden])")
        file = downloaded(page, tmp_path)
    answers = read_answers(file.read_bytes(), file.name, audit.known)
    assert file.name == "eva.jsonl"
    assert len(answers.verdicts) == 24
    assert next(iter(answers.verdicts.values())).comment == "déjà vu — 一 \n<b>"
    clicks = [click for line in answers.missed.values() for click in line.clicks]
    assert clicks == [(pytest.approx(30, abs=0.5), pytest.approx(30, abs=0.5))]
    assert len(add_file(audit, file)[1].verdicts) == 24


@pytest.mark.long
def test_a_static_page_keeps_what_a_full_browser_does_not_store_and_says_so_until_it_is_downloaded(
    open_page, audit, tmp_path
):
    write_judging_page(audit, RunLocation.open(str(tmp_path / "page")))
    with serving_folder(tmp_path / "page") as address:
        page = open_page(f"{address}/index.html?rater=eva", accept_downloads=True)
        give_verdict(page)
        page.evaluate(
            "() => { Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError'); }; }"
        )
        for _ in range(3):
            give_verdict(page)
            assert page.locator("#notice").inner_text().startswith("This browser cannot store your answers. Download")
        file = downloaded(page, tmp_path)
    assert len(add_file(audit, file)[1].verdicts) == 4
