"""Mutants of the commit path: `store`, `workers/faults` and what `pipeline` does between a shard and its receipt."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

LOCAL: Final = "store/files/local_storage.py"
LOCAL_TEST: Final = "tests/store/files/test_local_storage.py"
STORAGE_TEST: Final = "tests/store/files/test_storage.py"

MUTANTS: Final[tuple[Mutant, ...]] = (
    Mutant(
        "the bytes of a file are not synced",
        LOCAL,
        "                    file.flush()\n                    os.fsync(file.fileno())\n",
        "                    file.flush()\n",
        (f"{LOCAL_TEST}::test_every_new_folder_and_every_file_is_synced",),
    ),
    Mutant(
        "the folder of a new file is not synced",
        LOCAL,
        "            _sync_folder(temporary.parent)\n",
        "",
        (f"{LOCAL_TEST}::test_every_new_folder_and_every_file_is_synced",),
    ),
    Mutant(
        "the parent of a new folder is not synced",
        LOCAL,
        "    _sync_folder(folder.parent)\n",
        "",
        (f"{LOCAL_TEST}::test_every_new_folder_and_every_file_is_synced",),
    ),
    Mutant(
        "the bytes of a moved file are not synced",
        LOCAL,
        '        with local.open("rb") as file:\n            os.fsync(file.fileno())\n        local.replace',
        "        local.replace",
        (f"{LOCAL_TEST}::test_a_moved_file_is_synced_before_it_has_its_name_and_its_folder_after",),
    ),
    Mutant(
        "the folder of a moved file is not synced",
        LOCAL,
        "        local.replace(target)\n        _sync_folder(target.parent)\n",
        "        local.replace(target)\n",
        (f"{LOCAL_TEST}::test_a_moved_file_is_synced_before_it_has_its_name_and_its_folder_after",),
    ),
    Mutant(
        "a file has its name before its bytes are synced",
        LOCAL,
        "                    os.fsync(file.fileno())\n                answer = give_name(temporary)\n",
        "                    answer = give_name(temporary)\n                    os.fsync(file.fileno())\n",
        (f"{LOCAL_TEST}::test_a_writer_killed_before_its_data_is_synced_leaves_no_part",),
    ),
    Mutant(
        "a creation overwrites",
        LOCAL,
        "lambda temporary: _link_once(temporary, target)",
        "lambda temporary: bool(temporary.replace(target))",
        (f"{STORAGE_TEST}::test_a_second_put_replaces_and_a_second_creation_does_not[disk]",),
    ),
    Mutant(
        "a creation whose answer was lost counts as another's",
        LOCAL,
        "        return temporary.stat().st_nlink == 2\n",
        "        return False\n",
        (f"{LOCAL_TEST}::test_a_link_whose_answer_was_lost_counts_as_won",),
    ),
    Mutant(
        "a file of another writer counts as one's own",
        LOCAL,
        "st_nlink == 2",
        "st_nlink >= 1",
        (f"{STORAGE_TEST}::test_a_second_put_replaces_and_a_second_creation_does_not[disk]",),
    ),
    Mutant(
        "a write that failed leaves its temporary file",
        LOCAL,
        "                temporary.unlink(missing_ok=True)\n",
        "                pass\n",
        (f"{LOCAL_TEST}::test_a_full_disk_leaves_neither_part_nor_temporary_file",),
    ),
    Mutant(
        "a listing shows temporary files",
        LOCAL,
        "if _TEMPORARY.fullmatch(entry.name) or not entry.name.startswith(name_prefix):",
        "if not entry.name.startswith(name_prefix):",
        (f"{LOCAL_TEST}::test_a_writer_killed_before_its_data_is_synced_leaves_no_part",),
    ),
    Mutant(
        "a file that gc took from its writer is not written again",
        LOCAL,
        "            except FileNotFoundError:\n                continue\n",
        "",
        (f"{LOCAL_TEST}::test_a_temporary_file_that_gc_took_for_abandoned_is_written_again",),
    ),
    Mutant(
        "any hidden file of that prefix counts as temporary",
        LOCAL,
        "            is_ours = _TEMPORARY.fullmatch(entry.name) and",
        "            is_ours = entry.name.startswith(TEMPORARY_PREFIX) and",
        ("tests/store/runs/test_garbage.py::test_links_folders_and_strange_names_are_not_ours_to_delete",),
    ),
    Mutant(
        "a file that changes while it is read counts as unchanged",
        "store/files/storage.py",
        "        yield stream\n    refuse_change(storage.stat(path), expected)\n",
        "        yield stream\n",
        (f"{STORAGE_TEST}::test_a_file_that_is_replaced_while_it_is_read_is_changed[disk]",),
    ),
    Mutant(
        "an older version counts as the planned one",
        "store/files/storage.py",
        "found.mtime_ns != expected.mtime_ns",
        "found.mtime_ns > expected.mtime_ns",
        (f"{LOCAL_TEST}::test_an_older_version_of_equal_size_is_changed",),
    ),
    Mutant(
        "a torn part is kept",
        "store/location.py",
        "if self.size(path) != len(data):",
        "if self.size(path) is None:",
        ("tests/store/test_location.py::test_a_part_of_equal_size_is_left_alone_and_another_size_is_replaced",),
    ),
    Mutant(
        "a store that creates a file twice passes the probe",
        "store/location.py",
        'if not is_first or is_second or content != b"first":',
        "if not is_first:",
        ("tests/store/test_location.py::test_a_store_that_ignores_the_condition_is_told",),
    ),
)
