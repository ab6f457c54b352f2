"""Settings of the documentation site, which `make site` builds from the Markdown of docs/.

The pages stay plain Markdown, which a forge shows as well. So the navigation, links to files of the repository and
llms.txt are made here, while the site is built.
"""

from __future__ import annotations

import os
import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any, Final

from sphinx.application import Sphinx

ROOT: Final = Path(__file__).parents[2]
# Order of the pages behind each door. A page that is not named here comes after those, by its name.
DOORS: Final = {
    "start": "install demo photographs cluster",
    "guides": (
        "annotate sources sizing weights cluster hub masks vlm composing listener plugins resume troubleshooting "
        "finished-run notebooks audit correct imports evaluation data-set exports training student ppt"
    ),
    "reference": "cli settings schema api messages metrics formats layouts stability glossary",
    "records": (
        "method composing conformance quality performance scale reliability faults architecture decisions compared"
    ),
}
# Pages of 0.6.0 that others took up: what links to them still arrives.
MOVED: Final = {
    "guides/configuration": "guides/annotate.html#settings",
    "guides/exclusions": "guides/data-set.html#leave-out-a-benchmarks-images",
    "guides/export-ris": "guides/exports.html#lavt-lisa-cris-and-etris",
    "guides/gallery": "guides/annotate.html#the-gallery",
    "guides/judging": "guides/audit.html#for-raters",
    "guides/loading": "guides/training.html#order",
    "guides/mixing": "guides/data-set.html#mix-with-human-annotation",
    "guides/model-evaluation": "guides/evaluation.html#a-model",
    "guides/priors": "guides/masks.html#objects-instead-of-parts",
    "guides/ready-masks": "guides/masks.html#your-own-masks",
    "guides/reuse": "guides/finished-run.html",
    "guides/rewording": "guides/student.html#other-words-for-an-expression",
    "guides/second-opinion": "records/appendix/engines.html#does-a-second-opinion-help",
    "guides/sql": "guides/finished-run.html#query-the-tables",
    "records/audits": "records/appendix/audits.html",
    "records/engines": "records/appendix/engines.html",
    "records/exclusions": "records/appendix/exclusions.html",
    "records/exports": "records/appendix/exports.html",
    "records/listener": "records/appendix/listener.html",
    "records/ppt": "records/appendix/ppt.html",
    "records/quality-appendix": "records/appendix/quality.html",
    "records/students": "records/appendix/students.html",
    "records/synthetic-world": "records/appendix/synthetic-world.html",
}
_PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Where the repository can be looked at, such as https://forge.example/team/pseudoris. Without it a link to a file of
# the repository becomes the file's name.
FORGE: Final = os.environ.get("FORGE") or _PROJECT.get("urls", {}).get("Repository", "")
_LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")

project = "pseudoris"
author = "The pseudoris authors"
copyright = author
version = release = _PROJECT["version"]
root_doc = "index"
exclude_patterns = ["site"]
extensions = ["myst_parser"]
myst_heading_anchors = 4
# Info strings of fences hold a second word, `run`, which only the tests read.
# Not dashes: what a page says of an option is copied.
smartquotes_action = "qe"
nitpicky = True
html_theme = "furo"
html_title = f"pseudoris {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
# `_sources/` then holds the Markdown under its own names, for llms.txt.
html_sourcelink_suffix = ""
html_copy_source = True


def pages(docs: Path, door: str) -> list[str]:
    """Return the names of the pages behind a door, `start/install`, in the order of the navigation."""
    order = DOORS[door].split()
    found = {path.relative_to(docs / door).with_suffix("").as_posix() for path in (docs / door).rglob("*.md")}
    return [
        f"{door}/{name}"
        for name in (*dict.fromkeys(each for each in order if each in found), *sorted(found - {*order}))
    ]


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = _LINK.sub(lambda link: _target(name, link), source[0])
    if name == root_doc:
        for door in DOORS:
            listed = "\n".join(pages(Path(app.srcdir), door))
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {door.capitalize()}\n\n{listed}\n```\n"


def _target(name: str, link: re.Match[str]) -> str:
    """Return a link that leaves docs/ as one to the forge, and one to README.md as one to the first page."""
    text, path, anchor = link[1], link[2], link[3] or ""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(name), path))
    if target.startswith("docs/"):
        return link[0]
    if target == "README.md":
        up = posixpath.relpath("index.md", posixpath.dirname(name) or ".")
        return f"[{text}]({up})"
    if not (ROOT / target).exists():
        raise FileNotFoundError(f"docs/{name}.md links to {path}, which the repository does not have")
    return f"[{text}]({FORGE}/blob/main/{target}{anchor})" if FORGE else f"{text} (`{target}`)"


def _write_llms(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    docs = Path(app.srcdir)
    lines = ["# pseudoris", "", f"> {_PROJECT['description']}"]
    for door in DOORS:
        lines += ["", f"## {door.capitalize()}", ""]
        for name in pages(docs, door):
            lines.append(
                f"- [{_title(docs / f'{name}.md')}](_sources/{name}.md): {_first_sentence(docs / f'{name}.md')}"
            )
    (Path(app.outdir) / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_moved(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.name != "html":
        return
    for old, new in MOVED.items():
        target = posixpath.relpath(new, posixpath.dirname(old))
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={target}"><a href="{target}">Moved</a>\n'
        (Path(app.outdir) / f"{old}.html").write_text(page, encoding="utf-8")


def _title(page: Path) -> str:
    text = page.read_text(encoding="utf-8")
    return text.partition("# ")[2].partition("\n")[0].replace("`", "")


def _first_sentence(page: Path) -> str:
    """Return the first sentence of a page's first paragraph, without markup."""
    blocks = re.split(r"\n\s*\n", page.read_text(encoding="utf-8"))
    paragraph = next((each for each in blocks if not re.match(r"\s*(#|<|\||!|```|-)", each)), "")
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)|[*`]", lambda each: each[1] or "", " ".join(paragraph.split()))
    return re.split(r"(?<=[.:])\s", plain)[0].rstrip(":.") + "."


def setup(app: Sphinx) -> dict[str, Any]:
    """Add what the pages themselves do not say."""
    app.connect("source-read", _read)
    app.connect("build-finished", _write_llms)
    app.connect("build-finished", _write_moved)
    return {"parallel_read_safe": True}
