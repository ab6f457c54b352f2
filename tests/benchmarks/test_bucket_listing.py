"""The bucket that is never stored, listed by the clients that list real ones."""

import json

import pytest

from benchmarks import bucket_listing, fake_bucket
from benchmarks.fake_bucket import BUCKET, KeySpace, num_requests, served
from pseudoris.schemas.config import SourceConfig
from pseudoris.store.sources import open_source


def pages(space, **given):
    after, numbers, prefixes = "", [], []
    while True:
        page = space.page(after=after, **given)
        numbers += page.numbers
        prefixes += page.prefixes
        if page.next_after is None:
            return numbers, prefixes
        assert len(page.numbers) + len(page.prefixes) == given["max_keys"]
        after = page.next_after


@pytest.mark.parametrize("max_keys", [1, 7, 1_000])
def test_pages_hold_every_key_once_and_in_order(max_keys, monkeypatch):
    monkeypatch.setattr(fake_bucket, "KEYS_PER_PREFIX", 10)
    space = KeySpace(34)
    assert pages(space, max_keys=max_keys) == (list(range(34)), [])
    assert pages(space, prefix="data/0002/", max_keys=max_keys) == (list(range(20, 30)), [])
    prefixes = [f"data/000{number}/" for number in range(4)]
    assert pages(space, prefix="data/", delimiter="/", max_keys=max_keys) == ([], prefixes)
    assert pages(space, prefix="other/", max_keys=max_keys) == ([], [])
    assert space.page(after=space.key(31)).numbers == [32, 33]


@pytest.mark.long
def test_a_source_lists_all_of_it_in_the_order_of_its_keys(monkeypatch):
    for name, value in bucket_listing._CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with served(21_500) as endpoint:
        items = list(open_source(f"s3://{BUCKET}/data", SourceConfig(endpoint_url=endpoint)).list())
        assert num_requests(endpoint) >= 22
    assert [item.key for item in items] == [
        KeySpace(21_500).key(number).removeprefix("data/") for number in range(21_500)
    ]
    assert items[7].etag == f"{7:032x}"


@pytest.mark.long
def test_the_command_measures_tars_and_a_bucket(tmp_path):
    path = tmp_path / "listing.json"
    bucket_listing.main(["--tars", "3", "--members", "4", "--keys", "2500", "--json", str(path)])
    tars, bucket = json.loads(path.read_text())
    assert (tars["images"], bucket["images"]) == (12, 2_500)
    assert bucket["list_requests"] >= 3
    assert all(row["list_s"] > 0 for row in (tars, bucket))
