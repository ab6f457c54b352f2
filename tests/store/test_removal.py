from __future__ import annotations

from pathlib import Path

from store.lock import RunLock
from store.manifest import write_manifest
from store.removal import remove_run
from tests.store.builders import commit, start_run


def test_nothing_is_left_of_a_removed_run_and_what_lies_beside_it_stays(location):
    commit(location, start_run(location), 0, 1)
    write_manifest(location)
    with RunLock.held(location):
        pass
    folders = ("", "_plan", "_plan/g0001", "_receipts", "_manifest", "_lock", "images", "masks")
    assert any(list(location.list(folder)) for folder in folders)
    remove_run(location)
    assert not any(list(location.list(folder)) for folder in folders)
    remove_run(location)
    if "://" not in location.root:
        assert not Path(location.root).exists()
        assert Path(location.root).parent.exists()
