"""The tables say what DESIGN's record says, and Delta Lake can hold it."""

import pyarrow as pa
import pytest

from store import schema

# What Delta Lake has a type for (https://github.com/delta-io/delta/blob/master/PROTOCOL.md#primitive-types).
HOLDS = {
    pa.string(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.binary(),
    pa.timestamp("us", tz="UTC"),
}


@pytest.mark.parametrize("table", schema.TABLES)
def test_delta_lake_has_these_types(table: str) -> None:
    """Every column has a type that Delta Lake keeps as it is, and every name stands once."""
    found = schema.arrow(table)
    assert len(set(found.names)) == len(found.names)
    assert found.names[-1] == schema.PARTITION
    for field in found:
        inner = field.type.value_type if pa.types.is_list(field.type) else field.type
        assert inner in HOLDS, field


@pytest.mark.parametrize("table", schema.TABLES)
def test_columns_may_be_added(table: str) -> None:
    """Every column is nullable: a row written before a column was added has null there."""
    assert all(field.nullable for field in schema.arrow(table))


def test_there_are_thirteen_properties() -> None:
    """The image properties are those of the drift work, in its order, on every detection."""
    names = [column.name for column in schema.PROPERTIES]
    assert len(names) == 13
    detections = schema.arrow("detections").names
    first = detections.index(names[0])
    assert detections[first : first + 13] == names


@pytest.mark.parametrize("table", schema.TABLES)
def test_every_column_is_explained(table: str) -> None:
    """Each column has a sentence for the documentation."""
    assert all(column.says for column in schema.TABLES[table])
