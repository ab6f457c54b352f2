import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "records" / "architecture.md").read_text(encoding="utf-8")
# A path that begins with "_" is in a run, not in the house.
CODE = re.compile(r"`([a-z][a-z_0-9]*(?:/[a-z_0-9.]+)+)(?:: (\w+))?`")
PLACES = sorted({(match[1], match[2]) for match in CODE.finditer(PAGE)}, key=str)
ROOMS = sorted(path.name for path in (ROOT / "pseudoris").iterdir() if path.is_symlink())


def defined(path: Path) -> set[str]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {each.name for each in body if isinstance(each, ast.ClassDef | ast.FunctionDef)}


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_each_place_is_in_the_house(path, name):
    assert (ROOT / path).exists(), path
    assert name is None or name in defined(ROOT / path), f"{path} defines no {name}"


def test_it_lists_every_room():
    assert ROOMS
    assert [room for room in ROOMS if f"| `{room}/` |" not in PAGE] == []


def test_an_image_walks_twelve_hops_and_each_names_its_function():
    hops = re.findall(r"^\| (\d+) \|[^|]*\| `[\w/]+\.py: \w+`", PAGE, re.MULTILINE)
    assert [*map(int, hops)] == [*range(1, 13)]
