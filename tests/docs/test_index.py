"""A reader finds a task in the index: each of these has a link there, to a page and a part of it that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
LINKS = set(re.findall(r"\]\(([^)]+)\)", INDEX))
TASKS = {
    "annotate a folder of photographs of mine": "start/photographs.md",
    "resume a run after it was killed": "guides/resume.md#resume",
    "use masks that I have in place of SAM": "guides/masks.md#your-own-masks",
    "use the boxes of my detector": "guides/masks.md#objects-instead-of-parts",
    "let people judge a sample and choose a threshold by it": "guides/audit.md",
    "export to a trainer's format": "guides/exports.md",
    "split into train and val without a leak": "guides/data-set.md#splits-that-do-not-leak",
    "leave out a benchmark's images": "guides/data-set.md#leave-out-a-benchmarks-images",
    "run on Slurm": "guides/cluster.md",
    "read images from S3": "guides/sources.md",
    "change tau without running a model again": "guides/finished-run.md#filter-again",
    "train a student": "guides/student.md",
    "evaluate a checkpoint on RefCOCO": "guides/evaluation.md#a-model",
    "annotate 16-bit grey or large aerial images": "guides/sources.md#large-aerial-16-bit-and-medical-images",
    "merge two runs": "guides/data-set.md",
    "import RefCOCO, or COCO with captions": "guides/imports.md",
    "write a plug-in captioner": "guides/plugins.md",
    "see why images failed, and retry them": "guides/resume.md#images-that-failed",
    "update amid a run": "reference/stability.md#update",
    "estimate cost and time": "guides/sizing.md",
    "read the tables by SQL": "guides/finished-run.md#query-the-tables",
    "look at the result in a browser": "guides/annotate.md#the-gallery",
    "get weights without internet": "guides/weights.md#without-a-network",
    "read a run in my PyTorch code": "guides/training.md",
    "understand an error message": "guides/troubleshooting.md",
    "correct texts by hand": "guides/correct.md",
}


def parts(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize(("task", "target"), TASKS.items())
def test_a_task_has_a_link_on_the_index(task, target):
    assert target in LINKS, task
    page, _, part = target.partition("#")
    assert not part or part in parts(DOCS / page)


def test_every_page_is_on_the_index():
    linked = {each.partition("#")[0] for each in LINKS}
    pages = {
        page.relative_to(DOCS).as_posix()
        for door in ("start", "guides", "reference", "records")
        for page in (DOCS / door).rglob("*.md")
    }
    assert pages <= linked
