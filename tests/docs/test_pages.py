"""Pages on disk are current."""

from pathlib import Path

from pseudoris.schemas.tables import FAILURE_REASONS, SCHEMAS
from tests.docs.pages import settings_page, tables_page


def test_the_page_in_docs_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_page(), "run `make docs`"


def test_the_page_of_tables_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "reference" / "schema.md"
    assert page.read_text(encoding="utf-8") == tables_page(), "run `make docs`"


def test_the_page_names_every_column_and_every_reason():
    page = tables_page()
    assert all(f"| `{field.name}` |" in page for schema in SCHEMAS.values() for field in schema)
    assert all(f"| `{reason}` |" in page for reason in FAILURE_REASONS)
