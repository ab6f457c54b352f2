"""Every column is documented, and the tables agree with the records that fill them."""

import pytest

from pseudoris.schemas import tables


@pytest.mark.parametrize("schema", [*tables.SCHEMAS.values(), tables.PLAN_SCHEMA])
def test_every_column_carries_its_documentation_and_every_table_its_version(schema):
    assert all(len(field.metadata[b"doc"]) > 10 for field in schema)
    assert schema.metadata[b"pseudoris.version"] == str(tables.TABLES_VERSION).encode()


def test_columns_of_a_second_opinion_and_the_log_probability_of_a_draw_may_be_null():
    expressions = tables.EXPRESSIONS_SCHEMA
    assert [expressions.field(name).nullable for name in tables.GROUNDING_COLUMNS] == [True] * 3
    assert expressions.field("samples").type.value_type.field("log_prob").nullable
