import json
import os
import re

import pytest

from pseudoris.audit.audit_lock import HOLDER_NAME, writing_alone
from pseudoris.schemas.errors import ConfigError


def test_a_second_server_of_an_audit_says_who_has_it(tmp_path):
    address = "http://127.0.0.1:81/"
    said = rf"is in use by process {os.getpid()} on \S+, at {re.escape(address)}\. Stop it first, or open the address"
    with writing_alone(tmp_path, address), pytest.raises(ConfigError, match=said):
        writing_alone(tmp_path, "http://127.0.0.1:82/").__enter__()
    with writing_alone(tmp_path, "http://127.0.0.1:82/"):
        assert json.loads((tmp_path / HOLDER_NAME).read_text())["address"].endswith(":82/")
    assert not (tmp_path / HOLDER_NAME).exists()


def test_a_process_that_serves_nothing_is_named_without_an_address(tmp_path):
    said = rf"is in use by process {os.getpid()} on [^\s,]+\. Wait until it has ended, or stop it"
    with writing_alone(tmp_path), pytest.raises(ConfigError, match=said):
        writing_alone(tmp_path).__enter__()
