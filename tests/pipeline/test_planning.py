"""The freezing of the plan."""

from __future__ import annotations

import pytest

from pipeline.planning import plan_run
from schemas.run import HEADER_NAME, Identity
from store.header import read_header
from store.location import RunLocation
from store.plan import iter_plan
from store.sources.items import SourceItem
from tests.builders.runs import stub_config

IDENTITY = Identity(method={}, weights={}, device_kind="cpu", versions={})


def items(count: int) -> list[SourceItem]:
    return [SourceItem(f"{index:03d}.jpg", size_bytes=10) for index in range(count)]


def plan(location, listing, **values):
    config = stub_config("shards.max_images=2")
    return plan_run(location, listing, **{"source": "in", "identity": IDENTITY, "config": config, **values})


def test_the_header_counts_what_the_plan_holds(tmp_path):
    location = RunLocation.open(str(tmp_path / "out"))
    header = plan(location, [*items(1), *items(5)])
    assert (header.num_images, header.num_repeated, header.num_shards) == (5, 1, 3)
    assert header == read_header(location)
    assert [[entry.key for entry in entries] for _, entries in iter_plan(location, header)] == [
        ["000.jpg", "001.jpg"],
        ["002.jpg", "003.jpg"],
        ["004.jpg"],
    ]


def test_a_limit_plans_the_first_images_of_the_listing(tmp_path):
    header = plan(RunLocation.open(str(tmp_path)), items(5), limit=3)
    assert (header.num_images, header.num_shards) == (3, 2)


def test_no_header_stands_while_the_plan_is_being_written(tmp_path):
    def listing():
        yield from items(3)
        assert not (tmp_path / HEADER_NAME).exists()
        raise ConnectionError("the bucket is gone")

    with pytest.raises(ConnectionError, match="gone"):
        plan(RunLocation.open(str(tmp_path)), listing())
    assert not (tmp_path / HEADER_NAME).exists()
