"""The bank of texts that easy absences are drawn from: read once, by its digest, and never from a header."""

import hashlib
from pathlib import Path

import pytest

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.filtering.head_nouns import head_noun
from pseudoris.workers.noun_phrases import noun_phrase

BANKS = sorted((Path(__file__).parents[2] / "schemas/presets").glob("*.bank.txt"))
# Names that are true of many things: "no animal" is seldom right where no caption says "animal".
WIDER = "animal bird vehicle food fruit furniture person man woman child clothing tool toy plant building thing object"


def bank_file(folder, data: bytes):
    path = folder / "texts.txt"
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


def banked(path, digest: str | None = None) -> RunConfig:
    words = [f"composing.bank.uri={path}", *([] if digest is None else [f"composing.bank.sha256={digest}"])]
    return load_config("tiny-composed", assignments=words)


def test_a_bank_is_its_lines_cleaned_and_each_once(tmp_path):
    path, digest = bank_file(tmp_path, b"the red boat\r\n\nThe  Red boat.\na key\n")
    found = banked(path).composing.bank
    assert (found.values.texts, found.sha256) == (("the red boat", "a key"), digest)
    assert banked(path, digest).composing.bank == found


def test_the_identity_has_the_digest_and_a_header_is_read_without_the_file(tmp_path):
    path, digest = bank_file(tmp_path, b"a key\n")
    config = banked(path)
    assert config.method()["composing"]["bank"] == {"uri": str(path), "sha256": digest}
    path.unlink()
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("data", "digest", "expected"),
    [
        (b"\n \n", None, r"holds 0 texts, and 1 to 5000 are allowed"),
        (b"a key\n\xff", None, r"texts\.txt, line 2 is not UTF-8: name a file with one text a line"),
        (b"a key\n\na \0 key", None, r"texts\.txt, line 3 holds a control character"),
        (b"the red boat\nDas rote Boot", None, r"texts\.txt, line 2 is not in English"),
        ("the café\n红色的船".encode(), None, r"texts\.txt, line 2 is not in English"),
        (b"".join(b"a key %d\n" % n for n in range(5001)), None, "holds 5001 texts"),
        (b"a key", "0" * 64, "composing.bank: .* expected 0000"),
        (b"a" * 201, None, r"texts\.txt, line 1 has more than 200 letters"),
    ],
)
def test_another_file_is_refused_by_name(tmp_path, data, digest, expected):
    path, _ = bank_file(tmp_path, data)
    with pytest.raises(ConfigError, match=expected):
        banked(path, digest)


def test_a_missing_file_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ConfigError, match=r"composing.bank: uri .*none.txt' cannot be read .*one text a line"):
        banked(tmp_path / "none.txt")


@pytest.mark.parametrize("path", BANKS, ids=lambda path: path.name)
def test_each_text_of_a_shipped_bank_is_read_whole_as_one_thing_and_is_no_wider_name(path):
    texts = path.read_text(encoding="utf-8").splitlines()
    found = {text: noun_phrase(text, head_noun(text)) for text in texts}
    assert len(found) == len(texts)
    assert [text for text, phrase in found.items() if phrase is None or f"the {phrase.text}" != text] == []
    assert [text for text, phrase in found.items() if phrase.number == "several" or phrase.noun in WIDER.split()] == []
