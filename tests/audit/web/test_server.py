import asyncio
import json
from html import unescape

import pytest
from aiohttp.test_utils import TestClient, TestServer

from pseudoris.audit.verdict_lines import VerdictLine
from pseudoris.audit.web.pictures import Pictures
from pseudoris.audit.web.questions import Questions
from pseudoris.audit.web.raters import Raters
from pseudoris.audit.web.server import JudgingServer
from pseudoris.audit.web.server_guard import refusal
from pseudoris.schemas.errors import ConfigError
from tests.builders.audits import small_audit


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    return small_audit(tmp_path_factory.mktemp("audit"), num_double=6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"host": "localhost:9000"}, None),
        ({"host": "[::1]:81", "origin": "http://[::1]:81"}, None),
        ({"path": "/other/"}, "token"),
        ({"path": "/"}, "token"),
        ({"host": "evil.example:81"}, "only answers on this machine"),
        ({"host": ""}, "only answers on this machine"),
        ({"origin": "http://evil.example"}, "Another page"),
        ({"origin": "null"}, "Another page"),
        ({"origin": "http://127.0.0.1:82"}, "Another page"),
    ],
)
def test_only_a_page_of_this_server_with_the_token_may_ask(change, reason):
    found = refusal(**{"host": "127.0.0.1:81", "origin": None, "path": "/secret/answers", "token": "secret", **change})
    assert found is None if reason is None else reason in found


def test_a_server_refuses_a_wrong_token_and_sends_no_score(audit):
    questions = Questions(audit)
    server = JudgingServer(questions, Raters(audit, questions), Pictures(audit))

    async def ask():
        async with TestClient(TestServer(server.application("secret"))) as client:
            host = {"Host": "127.0.0.1:1"}
            replies = [await client.get(path, headers=host) for path in ("/secret/", "/wrong/", "/secrets/answers")]
            line = {"line": "verdict", "pair": "p9", "verdict": "right"}
            strange = await client.post("/secret/answer?rater=ana", json=line, headers=host)
            malformed = await client.post("/secret/answer?rater=ana", data=b"{}", headers=host)
            nameless = await client.get("/secret/answers?rater=../ana", headers=host)
            return [reply.status for reply in (*replies, strange, malformed, nameless)], await replies[0].text()

    codes, page = asyncio.run(ask())
    assert codes == [200, 403, 403, 409, 400, 409]
    for word in ("score", "stratum", "inclusion", "confidence", "planted", "is_kept", "distinctiveness"):
        assert word not in json.dumps(questions.plan())
    assert "connect-src 'self'" in unescape(page)


def test_a_pair_is_left_to_others_until_enough_have_answered_it_or_look_at_it(audit):
    now = [0.0]
    raters = Raters(audit, Questions(audit), clock=lambda: now[0])
    rows = [row for row in audit.pairs.to_pylist() if row["role"] == "drawn"]
    single = next(row["pair_id"] for row in rows if row["is_blind"] and not row["is_double"])
    double = next(row["pair_id"] for row in rows if row["is_double"])
    assert raters.look("ana", single) == {"outlines": []}
    # Both chose it at the same time.
    assert raters.look("bob", single) == {"taken": [single]}
    assert raters.taken("bob") == [single]
    now[0] = 3_600.0
    assert raters.taken("bob") == []
    raters.keep_click("ana", single, (3.0, 4.0))
    raters.keep_click("ana", single, (9.0, 9.0))
    assert len(raters.look("ana", single)["outlines"]) == 1
    for pair in (single, double):
        raters.record("ana", VerdictLine(pair=pair, verdict="right"))
    assert raters.taken("bob") == [single]
    raters.record("bob", VerdictLine(pair=double, verdict="right"))
    assert set(raters.taken("eva")) == {single, double}
    # Another start of the server: the first click before the mask stands, whatever the page says.
    again = Raters(audit, Questions(audit)).open("ana")
    assert again["clicks"] == {single: (3.0, 4.0)}
    assert [line["click"] for line in again["answers"]] == [(3.0, 4.0), None]
    with pytest.raises(ConfigError, match="cannot be a rater's name"):
        raters.open("../ana")


def test_a_file_that_was_replaced_beside_a_server_takes_no_more_answers(tmp_path):
    audit = small_audit(tmp_path)
    raters = Raters(audit, Questions(audit))
    first, second, *_ = audit.pairs["pair_id"].to_pylist()
    raters.record("eva", VerdictLine(pair=first, verdict="right"))
    path = audit.path / "verdicts" / "eva.jsonl"
    copy = tmp_path / "eva.jsonl"
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    with pytest.raises(ConfigError, match=r"eva\.jsonl was written by another process: start again"):
        raters.record("eva", VerdictLine(pair=second, verdict="right"))
