"""Secrets of a web SOURCE, in its query and in where its server redirects to: no error repeats them."""

from __future__ import annotations

import logging
import traceback

import fsspec
import pytest

from pseudoris.schemas.config import SourceConfig, StorageConfig
from pseudoris.schemas.errors import PseudorisError
from pseudoris.store.sources import open_source
from tests.builders.redirecting_host import redirecting_host

GIVEN, REDIRECTED = "hunter2", "swordfish"


@pytest.fixture
def web():
    """Return the class that answers, with its `url`."""
    with redirecting_host(REDIRECTED) as handler:
        yield handler


def read_all(source):
    with source.root.open(source.named[0]) as stream:
        stream.read()


@pytest.mark.parametrize("failure", [0, 403, 503])
def test_no_error_of_a_clients_repeats_where_a_server_redirected_it(web, caplog, failure):
    caplog.set_level(logging.DEBUG, logger="pseudoris")
    url = f"{web.url}/set.tar?sig={GIVEN}"
    config, limits = SourceConfig(allowed_query=("sig",), format="webdataset"), StorageConfig(patience_s=2)
    opened = open_source(url, config, limits=limits)
    assert len(list(opened.list())) == 8
    web.failure, web.fails_after = failure, 0
    for work in (lambda: list(open_source(url, config, limits=limits).list()), lambda: read_all(opened)):
        with pytest.raises((PseudorisError, FileNotFoundError)) as caught:
            work()
        assert REDIRECTED not in "".join(traceback.format_exception(caught.value)) + caplog.text
        assert GIVEN not in str(caught.value)


def test_a_source_that_is_missing_or_empty_is_named_without_its_query():
    fsspec.filesystem("memory").pipe("memory://told/set?sig=hunter2/a.txt", b"")
    for url in (f"memory://told/none?sig={GIVEN}", f"memory://told/set?sig={GIVEN}"):
        with pytest.raises(PseudorisError, match=r"\?…' (?:does not exist|lists no image)") as caught:
            list(open_source(url, SourceConfig(allowed_query=("sig",))).list())
        assert GIVEN not in str(caught.value)
