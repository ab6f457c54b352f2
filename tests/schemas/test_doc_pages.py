"""Pages on disk are current; every setting is shown with its value, its reason and where it was set."""

import re
from pathlib import Path

import pytest
import yaml

from pseudoris.schemas.config_layers import known_keys, load_config, own_layers, preset_layers, preset_names
from pseudoris.schemas.doc_pages import settings, settings_page, shown_config, tables_page
from pseudoris.schemas.tables import FAILURE_REASONS, SCHEMAS


def test_the_page_in_docs_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "settings.md"
    assert page.read_text(encoding="utf-8") == settings_page(), "run `make docs`"


def test_every_key_has_a_reason_and_there_are_at_most_150():
    found = [each for each in settings() if each.section is None]
    assert not [each.key for each in found if not each.reason]
    assert len(found) <= 150
    assert {each.key for each in found} <= set(known_keys())


@pytest.mark.parametrize("preset", preset_names())
def test_what_is_shown_is_the_configuration(preset, tmp_path):
    shown = shown_config(preset_layers(preset))
    (tmp_path / "shown.yaml").write_text(shown)
    assert load_config("tiny", tmp_path / "shown.yaml") == load_config(preset)
    assert all(re.search(rf"\b{each.key.rpartition('.')[2]}:", shown) for each in settings())


def test_each_key_says_who_set_it(tmp_path):
    (tmp_path / "my.yaml").write_text("masks: {points_per_batch: 7}")
    own = own_layers(tmp_path / "my.yaml", ["filtering.tau=0.5", "composing={}"])
    lines = shown_config([*preset_layers("tiny-composed"), *own]).splitlines()
    start = {line.strip().split(" ")[0]: line.partition("  # ")[2] for line in lines if not line.startswith("# ")}
    assert start["points_per_batch:"].startswith(f"--config {tmp_path}/my.yaml. Prompts in a forward pass")
    assert start["tau:"].startswith("--set. Keeps candidates")
    assert start["keep:"].startswith("preset tiny-composed. ")
    assert start["points_per_side:"].startswith("preset tiny. ")
    assert start["start_timeout_s:"].startswith("default. ")
    assert yaml.safe_load("\n".join(lines))["masks"]["points_per_batch"] == 7


def test_the_page_of_tables_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "schema.md"
    assert page.read_text(encoding="utf-8") == tables_page(), "run `make docs`"


def test_the_page_names_every_column_and_every_reason():
    page = tables_page()
    assert all(f"| `{field.name}` |" in page for schema in SCHEMAS.values() for field in schema)
    assert all(f"| `{reason}` |" in page for reason in FAILURE_REASONS)
