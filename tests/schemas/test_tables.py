"""Every column is documented, and the tables agree with the records that fill them."""

from dataclasses import fields

import pytest

from pseudoris.schemas import tables
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import CaptionSample


@pytest.mark.parametrize("schema", [*tables.SCHEMAS.values(), tables.PLAN_SCHEMA])
def test_every_column_carries_its_documentation_and_every_table_its_version(schema):
    assert all(len(field.metadata[b"doc"]) > 10 for field in schema)
    assert schema.metadata[b"pseudoris.version"] == str(tables.TABLES_VERSION).encode()


def test_columns_of_a_second_opinion_and_the_log_probability_of_a_draw_may_be_null():
    expressions = tables.EXPRESSIONS_SCHEMA
    assert [expressions.field(name).nullable for name in tables.GROUNDING_COLUMNS] == [True] * 3
    assert expressions.field("samples").type.value_type.field("log_prob").nullable


def test_the_plans_columns_are_the_plan_entrys_fields():
    assert tables.PLAN_SCHEMA.names == [field.name for field in fields(PlanEntry)]


def test_a_stored_sample_has_the_fields_of_a_caption_sample():
    stored = tables.EXPRESSIONS_SCHEMA.field("samples").type.value_type
    assert [field.name for field in stored] == [field.name for field in fields(CaptionSample)]
