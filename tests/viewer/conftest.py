"""Headless Chromium for the tests of the pages: the machine's own, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.viewer.builders import TWO, annotated, pages_of, quarantined_because

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start one browser for a module. Skips, and in CI fails, where there is none."""
    if CHROMIUM is None:
        message = "no chromium on the PATH: install it to run the browser tests"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    # Here, because a machine without a browser may lack it too.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two annotated images, an empty one, and a quarantined one; τ is 1.35."""
    return pages_of(
        tmp_path_factory.mktemp("pages é"),
        ("two.png", lambda entry: annotated(entry, 2, TWO)),
        ("lone.png", lambda entry: annotated(entry, 1, [(0, "a lone circle in the snow", None, None)])),
        ("bare.png", lambda entry: annotated(entry, 0)),
        ("broken.png", quarantined_because("the header is cut short")),
    )


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Any]:
    """Return a function that opens an address in a page of its own; what goes wrong in a page fails its test."""
    contexts, errors = [], []

    def open_one(address: str, **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (errors.append(f"a dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(address)
        return page

    yield open_one
    for context in contexts:
        context.close()
    # A browser asks a server for an icon that nobody named.
    assert [error for error in errors if "404" not in error] == []
