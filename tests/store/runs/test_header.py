from __future__ import annotations

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import HEADER_NAME, RECORDS_VERSION, PlanExtension
from pseudoris.store.runs.header import (
    create_extension,
    create_header,
    extension_path,
    read_header,
    require_header,
)
from pseudoris.store.runs.plan import iter_plan, read_shard_plan, write_plan
from tests.builders.seals import edit_sealed, sealed_json
from tests.store.builders import make_entries, start_run


def test_the_first_header_stands(location):
    first = start_run(location)
    late = first.model_copy(update={"source": "elsewhere/"})
    assert create_header(location, late) == first
    assert read_header(location) == first


def test_a_header_with_strange_fields_is_refused_with_their_names(location):
    start_run(location)
    edit_sealed(location, HEADER_NAME, lambda tree: tree.update(num_shards=-1, extra=1))
    with pytest.raises(ConfigError, match=r"is not a valid header, see extra, num_shards: .*name another output"):
        read_header(location)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"null"])
def test_a_file_that_is_no_header_is_refused(location, data):
    location.replace(HEADER_NAME, data)
    with pytest.raises(ConfigError, match="is not the header of a run"):
        read_header(location)


def extension(location, number: int, first_shard: int) -> PlanExtension:
    entries = make_entries(num_shards=2, first_shard=first_shard)
    return PlanExtension(
        number=number,
        created_utc="2026-01-02T00:00:00Z",
        plan_parts=write_plan(location, entries, generation=number),
        num_images=len(entries),
        num_repeated=1,
        num_shards=2,
        header_sha256=require_header(location).sha256,
    )


def test_readers_see_one_plan_with_all_extensions_in_it(location):
    first = start_run(location)
    create_extension(location, extension(location, 2, first_shard=3))
    header = create_extension(location, extension(location, 3, first_shard=5))
    assert header == read_header(location) == create_header(location, first)
    assert (header.num_images, header.num_shards, header.num_repeated) == (28, 7, 2)
    assert [shard for shard, _ in iter_plan(location, header)] == list(range(7))
    assert [entry.key for entry in read_shard_plan(location, header, 6)] == [f"s6/{n}.png" for n in range(4)]
    assert header.identity == first.identity


def test_a_lost_extension_is_told(location):
    start_run(location)
    create_extension(location, extension(location, 2, first_shard=3))
    create_extension(location, extension(location, 3, first_shard=5))
    location.delete(extension_path(2))
    with pytest.raises(ConfigError, match=r"holds the extensions \[3\] of the plan"):
        read_header(location)


def test_an_extension_that_was_edited_is_refused_by_its_name(location):
    start_run(location)
    location.replace(extension_path(2), sealed_json({"version": RECORDS_VERSION, "number": 2}))
    with pytest.raises(ConfigError, match=r"g0002\.json is not a valid header, see created_utc"):
        read_header(location)
