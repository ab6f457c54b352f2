from __future__ import annotations

import re

import pytest

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.run_records import HEADER_NAME, RECORDS_VERSION, PlanExtension
from pseudoris.store.runs.header import (
    check_identity,
    check_origin,
    create_extension,
    create_header,
    extension_path,
    read_header,
    require_header,
)
from pseudoris.store.runs.plan import iter_plan, read_shard_plan, write_plan
from tests.builders.seals import edit_sealed, sealed_json
from tests.store.builders import make_entries, make_identity, start_run


def test_the_first_header_stands(location):
    first = start_run(location)
    late = first.model_copy(update={"source": "elsewhere/"})
    assert create_header(location, late) == first
    assert read_header(location) == first


def test_another_identity_is_refused_with_every_differing_field_and_the_version_that_can_finish_it(location):
    header = start_run(location, identity=make_identity(versions={"pseudoris": "0.1.0"}))
    other = make_identity(device_kind="NVIDIA H200", weights={"propose": "b" * 64}, versions={"pseudoris": "0.2.0"})
    with pytest.raises(ConfigError, match="another identity") as caught:
        check_identity(header, other)
    said = ("device_kind: 'cpu' in the run, 'NVIDIA H200' now", "weights.propose", "finish it with pseudoris 0.1.0")
    assert [words for words in (*said, "name another output") if words not in str(caught.value)] == []


def test_a_run_that_another_command_made_is_refused(location):
    header = start_run(location)
    check_origin(location, header, "annotate")
    with pytest.raises(ConfigError, match=r"`pseudoris annotate`\. `import` cannot continue it"):
        check_origin(location, header, "import")


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


def test_other_devices_and_versions_can_be_accepted_and_are_named(location):
    header = start_run(location)
    other = make_identity(device_kind="NVIDIA H200", versions={"x": "2"})
    with pytest.raises(ConfigError, match="or accept other devices and package versions with --allow-mixed"):
        check_identity(header, other)
    assert check_identity(header, other, allow_mixed=True) == [
        "device_kind: 'cpu' in the run, 'NVIDIA H200' now",
        "versions.x: '1' in the run, '2' now",
    ]


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("weights.propose", {"weights": {"propose": "b" * 64}}),
        ("compute.seed", {"method": {**make_identity().method, "compute": {"seed": 7}}}),
        # Of a model folder: its weights are the same.
        ("folders.caption.tokenizer", {"folders": {"caption": {"tokenizer": "c" * 64}}}),
    ],
)
def test_other_weights_folders_or_another_method_are_never_accepted(location, field, changed):
    header = start_run(location)
    other = make_identity(device_kind="NVIDIA H200", **changed)
    with pytest.raises(ConfigError, match=rf"{re.escape(field)}: (?s:.*)or name another output$") as refusal:
        check_identity(header, other, allow_mixed=True)
    assert "device_kind" not in str(refusal.value)
    assert "--allow-mixed" not in str(refusal.value)


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
