from __future__ import annotations

import json

import pytest

from schemas.errors import ConfigError
from schemas.run import HEADER_NAME
from store.header import check_identity, create_header, read_header, require_header
from store.location import RunLocation
from tests.store.builders import make_identity, start_run


def edit(location, **changes) -> None:
    tree = json.loads(location.read_bytes(HEADER_NAME))
    location.replace(HEADER_NAME, json.dumps({**tree, **changes}).encode())


def test_where_no_run_was_started_there_is_no_header(location):
    assert read_header(location) is None


def test_the_header_is_read_back_as_it_was_created(location):
    header = start_run(location)
    assert read_header(location) == header


def test_the_first_header_stands(location):
    first = start_run(location)
    late = first.model_copy(update={"source": "elsewhere/"})
    assert create_header(location, late) == first
    assert read_header(location) == first


def test_an_equal_identity_is_accepted(location):
    check_identity(start_run(location), make_identity())


def test_another_identity_is_refused_with_every_differing_field(location):
    other = make_identity(device_kind="NVIDIA H200", weights={"propose": "b" * 64})
    with pytest.raises(ConfigError, match="another identity") as caught:
        check_identity(start_run(location), other)
    assert "device_kind: 'cpu' in the run, 'NVIDIA H200' now" in str(caught.value)
    assert "weights.propose" in str(caught.value)
    assert "name another output" in str(caught.value)


@pytest.mark.parametrize("version", [2, 0, "new"])
def test_a_header_of_another_version_is_refused(location, version):
    start_run(location)
    edit(location, version=version, something_new=1)
    with pytest.raises(ConfigError, match=f"has version {version!r}, this package reads version 1"):
        read_header(location)


def test_a_header_with_strange_fields_is_refused_with_their_names(location):
    start_run(location)
    edit(location, num_shards=-1, extra=1)
    with pytest.raises(ConfigError, match="does not hold as a header, see extra, num_shards"):
        read_header(location)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"null"])
def test_a_file_that_is_no_header_is_refused(location, data):
    location.replace(HEADER_NAME, data)
    with pytest.raises(ConfigError, match="is not the header of a run"):
        read_header(location)


def test_where_a_header_is_required_its_absence_says_how_to_start_a_run(location):
    with pytest.raises(ConfigError, match=r"there is no run at .*pseudoris annotate SOURCE OUT"):
        require_header(location)


def test_a_run_one_folder_down_is_suggested(tmp_path):
    (tmp_path / "demo" / "run-1").mkdir(parents=True)
    (tmp_path / "demo" / "run-1" / HEADER_NAME).write_text("{}")
    with pytest.raises(ConfigError, match=r"there is no run at .*did you mean .*run-1\?"):
        require_header(RunLocation.open(str(tmp_path / "demo")))
