"""Generated pages and drawings are current, and what a page names of the code and the tests is there."""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import pytest

import pseudoris
from evidence.experiments.method_example import figure, score_table, step, token_table
from pseudoris.schemas.tables import FAILURE_REASONS, SCHEMAS
from tests.docs.pages import PAGES, REFERENCE
from tests.docs.rooms import DRAWING, draw
from tests.faults.report import read_record, soak_table, trial_table

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "docs" / "records"
ARCHITECTURE = (RECORDS / "architecture.md").read_text(encoding="utf-8")
# A path that begins with "_" is in a run, not in the house.
CODE = re.compile(r"`([a-z][a-z_0-9]*(?:/[a-z_0-9.]+)+)(?:: (\w+))?`")
PLACES = sorted({(match[1], match[2]) for match in CODE.finditer(ARCHITECTURE)}, key=str)
ROOMS = sorted(path.name for path in (ROOT / "pseudoris").iterdir() if path.is_symlink())
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NOT_TRUSTED = [line for line in SECURITY.partition("## What is not trusted")[2].splitlines() if line.startswith("|")]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_reference_is_up_to_date(name):
    assert (REFERENCE / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


def test_the_pages_name_every_column_every_reason_and_every_public_name():
    tables, messages, api = (PAGES[name]() for name in ("schema.md", "messages.md", "api.md"))
    assert all(f"| `{field.name}` |" in tables for schema in SCHEMAS.values() for field in schema)
    assert all(f"| `{reason}` |" in messages for reason in FAILURE_REASONS)
    assert all(f"### `{name}`\n" in api for name in pseudoris.__all__ if not name.startswith("_"))


def test_the_drawing_of_the_house_is_what_the_imports_make():
    assert DRAWING.read_text(encoding="utf-8") == draw(), "run `python -m tests.docs.rooms`"


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_each_place_of_the_architecture_is_in_the_house(path, name):
    assert (ROOT / path).exists(), path
    if name is not None:
        body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        assert name in {each.name for each in body if isinstance(each, ast.ClassDef | ast.FunctionDef)}


def test_the_architecture_lists_every_room_and_an_image_walks_twelve_hops_that_name_their_functions():
    assert ROOMS
    assert [room for room in ROOMS if f"| `{room}/` |" not in ARCHITECTURE] == []
    hops = re.findall(r"^\| (\d+) \|[^|]*\| `[\w/]+\.py: \w+`", ARCHITECTURE, re.MULTILINE)
    assert [*map(int, hops)] == [*range(1, 13)]


def test_every_line_of_what_is_not_trusted_names_a_test():
    assert len(NOT_TRUSTED) > 12
    assert [row for row in NOT_TRUSTED[2:] if not TEST.search(row)] == []


@pytest.mark.parametrize(("path", "name"), TEST.findall(SECURITY))
def test_a_test_that_the_page_of_security_names_exists(path, name):
    assert re.search(rf"^def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_page_of_the_method_shows_the_tables_and_the_figure_that_the_functions_compute():
    page = (RECORDS / "method.md").read_text(encoding="utf-8")
    assert token_table() in page
    assert score_table() in page
    assert (RECORDS / "method.svg").read_text(encoding="utf-8") == figure()


def test_a_first_run_on_a_cluster_makes_a_token_before_ray_starts_and_a_job_is_submitted():
    page = (ROOT / "docs" / "start" / "cluster.md").read_text(encoding="utf-8")
    typed = re.findall(r"^(ray get-auth-token --generate|ray start --head|ray job submit)\b", page, re.MULTILINE)
    assert typed == ["ray get-auth-token --generate", "ray start --head", "ray job submit"]


def test_the_step_is_the_formula_of_the_page_of_the_method():
    found = step()
    # cup, red, striped, EOS: z_0 - 0.8 z_1 over the four largest z_0, EOS as in the softmax of z_0.
    parts = [math.exp(each) for each in (2.5 - 2.0, 3.0 - 2.4, 2.0 - 0.0, 1.0 - 0.8)]
    cup, red, striped, _ = (part / sum(parts) for part in parts)
    eos = math.exp(1.0) / sum(math.exp(each) for each in (2.5, 3.0, 2.0, 1.0))
    assert found.distinctive.tolist() == pytest.approx([cup, 0.0, red, striped, eos], abs=1e-6)
    assert found.distinctive.sum() == pytest.approx(0.963, abs=5e-4)
    assert found.drawn == ("red", "striped")


@pytest.mark.parametrize(("name", "table"), [("soak", soak_table), ("trials", trial_table)])
def test_the_page_of_reliability_shows_the_record(name, table):
    _, _, rest = (RECORDS / "reliability.md").read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    record = read_record(ROOT / "tests" / "faults" / f"{name}.jsonl")
    assert rest.partition(f"<!-- /{name} -->")[0].strip() == table(record)


def test_a_run_of_the_soak_that_lost_an_image_or_changed_a_byte_shows():
    row = {"faults": 3, "starts": 2, "struck": {"b": 3}, "lost": 1, "doubled": 0, "bytes_equal": False}
    assert soak_table([row]).splitlines()[-1].endswith("| 1 LOST, BYTES DIFFER |")


def test_the_newest_version_of_the_changelog_has_four_headings_and_short_lines():
    newest = (ROOT / "CHANGELOG.md").read_text("utf-8").split("\n## [")[1]
    assert re.findall(r"^### (.*)$", newest, re.MULTILINE) == ["Added", "Changed", "Fixed", "Faster"]
    assert [line for line in newest.splitlines() if line.startswith("- ") and len(line.split()) > 26] == []
