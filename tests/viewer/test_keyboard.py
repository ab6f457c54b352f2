"""Keys that must not be taken from what has them already, that can be turned off, and that an empty page survives."""

import pytest

from pseudoris.cli.gallery import write_pages
from tests.viewer.builders import annotated, quarantined_because, write_run

pytestmark = pytest.mark.browser

TWO = [(0, "a red circle", 1.5, 1), (0, "the dotted circle", 1.2, 1), (1, "a blue circle", 1.3, 0)]


def page_of(folder, *makers):
    write_pages(write_run(folder / "run", *makers).root)
    return (folder / "run" / "gallery" / "index.html").as_uri()


@pytest.fixture
def address(tmp_path):
    return page_of(
        tmp_path,
        ("a.png", lambda entry: annotated(entry, 2, TWO)),
        ("b.png", lambda entry: annotated(entry, 2, TWO)),
        ("a long name of a file that no phone is wide enough for.png", quarantined_because("wide " * 40)),
    )


def test_arrows_scroll_a_table_that_is_wider_than_its_place(open_page, address):
    page = open_page(address)
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


def test_arrows_lead_on_from_a_link_in_an_open_expression(open_page, address):
    page = open_page(address)
    page.locator("#expressions .line").first.click()
    page.locator("#expressions .link").first.focus()
    page.keyboard.press("ArrowDown")

    assert page.locator(".expression.is-open .text").inner_text() == "the dotted circle"


def test_after_the_slider_the_other_keys_go_on(open_page, address):
    page = open_page(address)
    page.locator("#tau").focus()
    page.keyboard.press("m")
    assert page.evaluate("document.body.className") == "without-masks"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.locator("#tau").focus()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement === document.body")
    page.locator("#tau").focus()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"


def test_keys_of_one_character_can_be_turned_off_and_the_choice_is_remembered(open_page, address):
    page = open_page(address)
    page.locator("#help-button").click()
    page.locator("#single-keys").uncheck()
    page.keyboard.press("Escape")

    def react():
        page.locator("h1").click()
        before = page.evaluate("document.documentElement.dataset.theme ?? ''")
        for key in ("m", "t", "/", "?"):
            page.keyboard.press(key)
        return [
            page.evaluate("document.body.className") == "without-masks",
            page.evaluate("document.documentElement.dataset.theme ?? ''") != before,
            page.evaluate("document.activeElement.id") == "find",
        ]

    assert react() == [False] * 3
    page.reload()
    page.wait_for_function("document.documentElement.dataset.keys === 'off'")
    assert react() == [False] * 3
    page.keyboard.press("ArrowRight")
    assert page.locator("#inspector-title").inner_text() == "b.png"
    page.goto(address.replace("index", "quality"))
    page.wait_for_function("document.documentElement.dataset.keys === 'off'")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") is None
    page.goto(address)
    page.wait_for_function("!document.getElementById('single-keys').checked")
    page.locator("#help-button").click()
    page.locator("#single-keys").check()
    page.keyboard.press("Escape")
    assert react() == [True] * 3


@pytest.mark.parametrize("keys", [["Enter", "Escape"], ["Escape"], ["ArrowDown", "ArrowRight", "Enter"]])
def test_an_empty_gallery_survives_every_key(open_page, tmp_path, keys):
    page = open_page(page_of(tmp_path, ("broken.png", quarantined_because("cut short"))))
    for key in (*keys, "m", "?", "Escape", "/"):
        page.keyboard.press(key)

    assert page.evaluate("document.activeElement.id") == "find"
