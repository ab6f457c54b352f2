"""`make site`: strict, whole without a network, searchable without a server; and guides that can be read in an hour."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builders.web import serving_folder
from tests.docs.pages import PAGES as REFERENCE
from tests.viewer.conftest import chromium  # noqa: F401 # a fixture

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "index.md")
# Written by `make docs`, `make conformance` and `make quality`.
GENERATED = {
    *(f"reference/{name}" for name in REFERENCE),
    "records/conformance.md",
    "records/quality.md",
    "records/appendix/quality.md",
}
MOVED = runpy.run_path(str(ROOT / "docs" / "site" / "conf.py"))["MOVED"]
FORGE = "https://forge.example/team/pseudoris"
# What a browser fetches by itself.
_FETCHED = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=["']((?:https?:)?//[^"']+)""")
_FETCHED_BY_CSS = re.compile(r"""url\(["']?((?:https?:)?//[^"')]+)|@import""")
# On a narrow screen the article scrolls, so the page itself is never wide. Tables and code scroll by themselves.
_IS_WIDE = """[document.documentElement, ...document.querySelectorAll("article *")].some(
    each => !each.closest(".table-wrapper, .highlight") && each.getBoundingClientRect().right > innerWidth + 1
)"""
MAX_GUIDES, MAX_LINES, MAX_WORDS, MAX_WORDS_OF_ALL = 25, 250, 1_600, 24_000


def build(docs: Path, site: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    return subprocess.run(
        [*words, "-c", str(ROOT / "docs" / "site"), str(docs), str(site)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FORGE": FORGE},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT / "docs", folder)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
@pytest.mark.long
def test_the_site_fetches_nothing_from_elsewhere(site):
    pages, sheets = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > len(GUIDES)
    assert [found for page in pages for found in _FETCHED.findall(page.read_text(encoding="utf-8"))] == []
    assert [found for sheet in sheets for found in _FETCHED_BY_CSS.findall(sheet.read_text(encoding="utf-8"))] == []


@pytest.mark.slow
def test_llms_txt_names_every_page_and_its_text_is_there(site):
    named = re.findall(
        r"^- \[[^\]]+\]\(([^)]+)\): \S.*\.$", (site / "llms.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    pages = {f"_sources/{path.relative_to(ROOT / 'docs')}" for path in PAGES}
    assert set(named) == pages
    assert all((site / name).is_file() for name in named)


@pytest.mark.slow
def test_an_option_keeps_its_two_dashes(site):
    found = [found for page in site.rglob("*.html") for found in re.findall(r"–[a-z]\S+", page.read_text("utf-8"))]
    assert found == []


@pytest.mark.slow
def test_a_link_to_a_file_of_the_repository_leads_to_the_forge(site):
    text = "".join(page.read_text(encoding="utf-8") for page in site.rglob("*.html"))
    linked = set(re.findall(rf'href="{FORGE}/blob/main/([^"#]+)', text))
    assert linked
    assert all((ROOT / name).exists() for name in linked)


@pytest.mark.slow
def test_a_link_to_a_page_that_moved_arrives(site):
    for old, new in MOVED.items():
        target, _, part = new.partition("#")
        assert f"url={os.path.relpath(new, Path(old).parent)}" in (site / f"{old}.html").read_text(encoding="utf-8")
        assert f'id="{part}"' in (site / target).read_text(encoding="utf-8") or not part


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"), [("[away](nowhere.md)", "nowhere.md"), ("[part](index.md#no-such-part)", "no-such-part")]
)
def test_a_link_to_nowhere_fails_the_build(tmp_path, text, said):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Title\n\n{text}\n")
    built = build(tmp_path / "docs", tmp_path / "site")
    assert built.returncode != 0
    assert said in built.stderr


@pytest.fixture(params=["file", "http"])
def address(request, site):
    """Where the site is looked at: as files, and on a server."""
    if request.param == "file":
        yield site.as_uri()
        return
    with serving_folder(site) as url:
        yield url


@pytest.mark.browser
@pytest.mark.slow
def test_the_search_finds_a_page_with_and_without_a_server(address, chromium):  # noqa: F811
    page = chromium.new_page()
    page.goto(f"{address}/index.html")
    page.fill("input[name=q]", "quarantine")
    page.press("input[name=q]", "Enter")
    page.wait_for_selector("ul.search li a")
    found = page.eval_on_selector_all("ul.search li a", "all => all.map(each => each.getAttribute('href'))")
    assert any("messages.html" in each for each in found), found


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.long
def test_no_page_is_wider_than_a_telephones_screen_or_a_desktops(site, chromium):  # noqa: F811
    page, wide = chromium.new_page(), []
    for each in sorted({*site.rglob("*.html")} - {site / f"{old}.html" for old in MOVED}):
        page.goto(each.as_uri())
        for width in (390, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            if page.evaluate(_IS_WIDE):
                wide.append((each.name, width))
    assert wide == []


def words(page: Path) -> int:
    return len(page.read_text(encoding="utf-8").split())


def test_no_page_is_long_but_generated_ones():
    lines = {path.relative_to(ROOT / "docs").as_posix(): path.read_text("utf-8").count("\n") for path in PAGES}
    assert {name: number for name, number in lines.items() if number > MAX_LINES and name not in GENERATED} == {}


def test_guides_are_few_and_short():
    assert len(GUIDES) <= MAX_GUIDES
    assert [path.name for path in GUIDES if words(path) > MAX_WORDS] == []
    total = sum(map(words, GUIDES))
    assert total <= MAX_WORDS_OF_ALL, f"{total} words in all guides, {MAX_WORDS_OF_ALL} are allowed"
