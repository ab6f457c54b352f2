"""What decides a chooser's weights: settings that are new count only where they are set."""

from __future__ import annotations

from tests.training.chooser.builders import small_config


def test_rewording_counts_only_where_it_is_set(tmp_path):
    plain, reworded = (small_config(tmp_path, words).decisive()["data"] for words in ((), ("data.rewording=true",)))
    assert "rewording" not in plain
    assert reworded == {**plain, "rewording": True}
