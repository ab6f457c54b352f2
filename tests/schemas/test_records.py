"""What travels between stages and is written: names, records, blocks, tables and measures."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.measures import BATCH_FILL, STORAGE_RETRIES, collecting, count, record, take_counts
from pseudoris.schemas import ids, tables
from pseudoris.schemas.audit_records import AuditRecord
from pseudoris.schemas.run_records import Identity, PartRecord, Receipt, ShardCounts
from pseudoris.schemas.shard import (
    MASK_RULES,
    CaptionSample,
    ExpressionRecord,
    Failure,
    MaskRecord,
    Shard,
    ShardImage,
    clean_text,
    crop_context,
)
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.schemas.tables import SCHEMAS
from tests.builders.scored_runs import begin


def test_crop_names_do_not_depend_on_how_the_scale_is_written():
    assert [crop_context(scale) for scale in (1, 1.0, 1.20)] == ["context_1.0", "context_1.0", "context_1.2"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        *(("A Dog . ", "a dog"), ("  a   dog.. ", "a dog"), ("u.s. flag", "u.s. flag")),
        *(("a\u200b dog", "a\u200b dog"), ("\u72d7", "\u72d7"), ("a\x00dog\x7f", "a dog"), ("7", "7")),
        ("\u2764", "\u2764"),
        *((blank, "") for blank in (" . ", "", "!!!", "...", "?", "\u2014", "\u200b", " \ufeff\u2060.", "\x00\x1b")),
        *((blank, "") for blank in ("\u0301\ufe0f", "\u3164 \u2800")),
    ],
)
def test_texts_are_lower_cased_stripped_and_lose_their_full_stop(text, cleaned):
    assert clean_text(text) == cleaned


NUMBERS = st.floats(allow_nan=False)
SAMPLES = st.builds(
    CaptionSample,
    st.text(),
    st.text(),
    st.none() | st.integers(1, 99),
    st.none() | NUMBERS,
    NUMBERS,
    other_masks=st.lists(st.integers(0, 99), max_size=2).map(tuple),
)
MASKS = st.builds(
    MaskRecord, st.text(), st.integers(0, 99), st.just((3, 4)), st.text(), st.just((0, 1, 2, 3)), st.integers(1, 12)
)
EXPRESSIONS = st.builds(
    ExpressionRecord,
    st.lists(st.text(), max_size=2).map(tuple),
    st.text(),
    st.lists(SAMPLES, min_size=1, max_size=2).map(tuple),
    uniqueness=st.none() | NUMBERS,
)
IMAGES = st.builds(
    ShardImage,
    st.just(0),
    st.text(),
    st.text(),
    st.binary(),
    failure=st.none() | st.builds(Failure, st.text(), st.text(), st.text()),
    masks=st.lists(MASKS, max_size=2).map(tuple),
    masks_left=st.none() | st.dictionaries(st.sampled_from([*MASK_RULES]), st.integers(0, 9)),
    levels=st.just(()) | st.tuples(st.floats(-9, 0), st.floats(1, 2**32)),
    expressions=st.lists(EXPRESSIONS, max_size=2).map(tuple),
)


@given(st.lists(IMAGES, max_size=2).map(tuple), st.booleans())
def test_a_block_is_one_row_and_gives_the_same_shard_back(images, is_committed):
    shard = Shard(7, 1, images, {"read": 0.5}, ("node",), is_committed=is_committed, planned_ids=("a", "b"))
    block = shard_to_block(shard)
    assert block.num_rows == 1
    assert block_to_shard(block) == shard


def test_a_block_that_was_merged_or_lost_its_row_is_refused():
    blocks = [shard_to_block(Shard(number, 0, (ShardImage(0, "a", "k"),))) for number in (1, 2)]
    for block, num_rows in ((pa.concat_tables(blocks), 2), (blocks[0].slice(1), 0)):
        with pytest.raises(ValueError, match=f"a block must hold one shard, which is one row, got {num_rows} rows"):
            block_to_shard(block)


def test_ids_and_names_are_what_they_were():
    assert ids.image_id("a/b.jpg") == "4a51636246e7c418"  # printf a/b.jpg | sha256sum
    assert ids.mask_id("aa32c4d72b19f02a", 7) == "aa32c4d72b19f02a-0007"
    assert ids.part_name(42, 1, "9f3a1c07" + "0" * 56) == "shard-00000042.g1-9f3a1c07.parquet"


VERSIONS = [*((each, 6) for each in tables.SCHEMAS.values()), *((each, 5) for each in tables.SCHEMAS_OF_5.values())]


@pytest.mark.parametrize(("schema", "version"), [*VERSIONS, (tables.PLAN_SCHEMA, 5)])
def test_every_column_carries_its_documentation_and_every_table_its_version(schema, version):
    assert all(len(field.metadata[b"doc"]) > 10 for field in schema)
    assert schema.metadata[b"pseudoris.version"] == str(version).encode()


def test_columns_of_a_second_opinion_and_the_log_probability_of_a_draw_may_be_null():
    expressions = tables.EXPRESSIONS_SCHEMA
    assert [expressions.field(name).nullable for name in tables.GROUNDING_COLUMNS] == [True] * 3
    assert expressions.field("samples").type.value_type.field("log_prob").nullable


PART = PartRecord(name="p", rows=0, size_bytes=1, sha256="0" * 64)
COUNTS = ShardCounts(
    images=2, annotated=1, empty=0, quarantined=1, masks=3, expressions=9, samples=20, kept=4, kept_lone=0
)


def identity(**changed):
    values = {"method": {"compute": {"seed": 0}}, "weights": {"propose": "a"}, "device_kind": "cpu", "versions": {}}
    return Identity(**{**values, **changed})


def test_each_difference_names_its_key_and_both_values():
    other = identity(method={"compute": {"seed": 1}}, device_kind="NVIDIA H200", versions={"torch": "3"})
    assert identity().differences(other) == [
        "device_kind: 'cpu' in the run, 'NVIDIA H200' now",
        "compute.seed: 0 in the run, 1 now",
        "versions: {} in the run, 'absent' now",
        "versions.torch: 'absent' in the run, '3' now",
    ]


@pytest.mark.parametrize(
    ("before", "now", "why"),
    [
        ("cpu x86_64 AVX512", "cpu x86_64 AVX512 bits 1a", " (the CPU rounds otherwise, by its model or by a "),
        ("cpu x86_64 AVX512 bits 2b", "cpu x86_64 AVX512 bits 1a", " (the CPU rounds otherwise, by its model or by a "),
        ("cpu x86_64 AVX2 bits 2b", "cpu x86_64 AVX512 bits 1a", ""),
    ],
)
def test_of_two_cpus_that_round_otherwise_the_difference_says_so(before, now, why):
    (line,) = identity(device_kind=before).differences(identity(device_kind=now))
    assert line.startswith(f"device_kind: {before!r} in the run, {now!r} now{why}")
    assert line.endswith(")") == bool(why)


def test_a_receipt_names_a_part_of_every_table():
    assert Receipt(shard=0, generation=0, parts=dict.fromkeys(SCHEMAS, PART), counts=COUNTS).num_repeats == 0
    with pytest.raises(ValidationError, match="names one part of each of"):
        Receipt(shard=0, generation=0, parts={"images": PART}, counts=COUNTS)


def test_a_header_gives_its_audit_back_and_refuses_what_a_later_version_wrote(tmp_path):
    header = begin(RunLocation.open(str(tmp_path)))
    assert header.section("audits", AuditRecord) is None
    fields = {"draw": "a" * 64, "run_root": "b" * 64, "raters": 1, "verdicts": 120, "target": 0.9}
    known = AuditRecord(**fields, rule="confidence > 0.6", accuracy=0.95, at_least=0.91)
    section = known.model_dump(mode="json")
    assert header.model_copy(update={"audits": section}).section("audits", AuditRecord) == known
    with pytest.raises(ConfigError, match="see novel: use the version"):
        header.model_copy(update={"audits": {**section, "novel": 1}}).section("audits", AuditRecord)


def test_a_threads_values_in_a_block_are_collected_by_name_and_by_what_they_are_of():
    with collecting() as measures:
        record(BATCH_FILL, 1.0, of="crops")
        record(BATCH_FILL, 0.5, of="crops")
        record(BATCH_FILL, 0.25, of="texts")
        thread = threading.Thread(target=record, args=("elsewhere", 1.0))
        thread.start()
        thread.join()
    record(BATCH_FILL, 1.0, of="crops")
    assert measures == {(BATCH_FILL, "crops"): [1.0, 0.5], (BATCH_FILL, "texts"): [0.25]}


def test_counts_come_from_every_thread_and_are_taken_once():
    take_counts()
    threads = [threading.Thread(target=count, args=(STORAGE_RETRIES, 2)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count(STORAGE_RETRIES)
    assert take_counts() == {STORAGE_RETRIES: 7}
    assert take_counts() == {}
