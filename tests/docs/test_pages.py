"""Generated pages on disk are current, and leave nothing out."""

import pytest

import pseudoris
from pseudoris.schemas.tables import FAILURE_REASONS, SCHEMAS
from tests.docs.pages import PAGES, REFERENCE


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_reference_is_up_to_date(name):
    assert (REFERENCE / name).read_text(encoding="utf-8") == PAGES[name](), "run `make docs`"


def test_the_pages_name_every_column_every_reason_and_every_public_name():
    tables, messages, api = (PAGES[name]() for name in ("schema.md", "messages.md", "api.md"))
    assert all(f"| `{field.name}` |" in tables for schema in SCHEMAS.values() for field in schema)
    assert all(f"| `{reason}` |" in messages for reason in FAILURE_REASONS)
    assert all(f"### `{name}`\n" in api for name in pseudoris.__all__ if not name.startswith("_"))
