"""Records become Arrow columns and come back."""

from dataclasses import dataclass

import pyarrow as pa
import pytest

from pseudoris.schemas.shard_blocks import from_array, to_array


@dataclass(frozen=True)
class Leaf:
    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    height: float | None = None


# Other orders than those of the dataclasses.
LEAF = pa.struct([("sizes", pa.list_(pa.int32())), ("name", pa.string())])
TREE = pa.struct([("height", pa.float64()), ("leaves", pa.large_list(LEAF))])
CLASSES = {"tree": Tree, "leaves": Leaf}
TREES = [Tree((Leaf("a", (1, 2)), Leaf("b"))), None, Tree((), 2.5), Tree((Leaf("c", (3,)),))]


def test_records_come_back_whatever_the_order_of_the_struct_s_fields():
    assert from_array(to_array(TREES, TREE), "tree", CLASSES) == TREES


def test_records_come_back_from_a_slice():
    assert from_array(to_array(TREES, TREE)[2:], "tree", CLASSES) == TREES[2:]


@pytest.mark.parametrize("kind", [TREE, pa.list_(LEAF), pa.large_list(LEAF)])
def test_an_array_without_values_has_the_type_that_was_asked_for(kind):
    array = to_array([], kind)
    assert (array.type, len(array)) == (kind, 0)


def test_an_array_of_records_equals_that_of_their_dictionaries():
    rows = [
        {"height": None, "leaves": [{"name": "a", "sizes": [1, 2]}, {"name": "b", "sizes": []}]},
        None,
        {"height": 2.5, "leaves": []},
        {"height": None, "leaves": [{"name": "c", "sizes": [3]}]},
    ]
    assert to_array(TREES, TREE).equals(pa.array(rows, TREE))


def test_no_list_of_records_is_an_empty_one():
    array = to_array([None, (Leaf("a"),)], pa.list_(LEAF))
    assert from_array(array, "leaves", CLASSES) == [(), (Leaf("a"),)]


def test_a_record_without_a_field_of_its_struct_is_refused():
    with pytest.raises(AttributeError, match="sizes"):
        to_array([Tree(())], LEAF)
