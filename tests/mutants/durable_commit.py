"""Mutants of the commit path: `store`, `workers/faults` and what `pipeline` does between a shard and its receipt."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Mutant

LOCAL: Final = "store/files/local_storage.py"
LOCAL_TEST: Final = "tests/store/files/test_local_storage.py"
STORAGE_TEST: Final = "tests/store/files/test_storage.py"
COMMIT: Final = "store/runs/commit.py"
RECEIPTS: Final = "store/runs/receipts.py"
HEADER: Final = "store/runs/header.py"
PLAN: Final = "store/runs/plan.py"
LOCK: Final = "store/runs/lock.py"
SESSION: Final = "store/runs/session.py"
GC: Final = "store/runs/garbage.py"
RETRY: Final = "store/runs/retry_commit.py"
EXTENSION: Final = "store/runs/extension.py"
MANIFEST: Final = "store/runs/manifest.py"
BUCKET: Final = "store/files/s3_bucket.py"
TASKS: Final = "pipeline/shard_tasks.py"
FAULTS: Final = "pipeline/shard_faults.py"
ACTOR: Final = "pipeline/stage_actor.py"
QUARANTINE: Final = "workers/faults/quarantine.py"
TOLERANT: Final = "workers/faults/tolerant_stages.py"

BUCKET_TEST: Final = "tests/store/files/test_s3_bucket.py"
COMMIT_TEST: Final = "tests/store/runs/test_commit.py"
RECEIPTS_TEST: Final = "tests/store/runs/test_receipts.py"
HEADER_TEST: Final = "tests/store/runs/test_header.py"
PLAN_TEST: Final = "tests/store/runs/test_plan.py"
LOCK_TEST: Final = "tests/store/runs/test_lock.py"
SESSION_TEST: Final = "tests/store/runs/test_session.py"
GC_TEST: Final = "tests/store/runs/test_garbage.py"
RETRY_TEST: Final = "tests/store/runs/test_retry_commit.py"
EXTENSION_TEST: Final = "tests/store/runs/test_extension.py"
MANIFEST_TEST: Final = "tests/store/runs/test_manifest.py"
ATTEMPTS_TEST: Final = "tests/store/runs/test_attempts.py"
RECORDS_TEST: Final = "tests/store/checks/test_records.py"
TASKS_TEST: Final = "tests/pipeline/test_shard_tasks.py"
FAULTS_TEST: Final = "tests/pipeline/test_shard_faults.py"
ACTOR_TEST: Final = "tests/pipeline/test_stage_actor.py"
QUARANTINE_TEST: Final = "tests/workers/faults/test_quarantine.py"
TOLERANT_TEST: Final = "tests/workers/faults/test_tolerant_stages.py"

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
    Mutant(
        "a creation in a bucket has no condition",
        BUCKET,
        'self._write(key, data, author, {"IfNoneMatch": "*"})',
        "self._write(key, data, author, {})",
        (f"{STORAGE_TEST}::test_a_second_put_replaces_and_a_second_creation_does_not[s3]",),
    ),
    Mutant(
        "a conditional write that the client repeated counts as another's",
        BUCKET,
        "                return self._author(key) == author\n",
        "                return False\n",
        (f"{BUCKET_TEST}::test_a_creation_that_meets_a_fault_is_won_once_and_stands_whole[put-conflict_done]",),
    ),
    Mutant(
        "a refused conditional write counts as one's own",
        BUCKET,
        "                return self._author(key) == author\n",
        "                return True\n",
        (f"{STORAGE_TEST}::test_a_second_put_replaces_and_a_second_creation_does_not[s3]",),
    ),
    Mutant(
        "the completion of a large creation has no condition",
        BUCKET,
        '"MultipartUpload": {"Parts": parts}, **condition}',
        '"MultipartUpload": {"Parts": parts}}',
        (f"{BUCKET_TEST}::test_a_second_creation_is_refused_whatever_its_size[large]",),
    ),
    Mutant(
        "any version of an object is read",
        "store/files/s3_requests.py",
        """            arguments["IfMatch"] = f'"{self._etag}"'\n""",
        "            pass\n",
        (f"{BUCKET_TEST}::test_a_read_of_another_version_is_changed",),
    ),
    Mutant(
        "a body that ends early counts as whole",
        "store/files/s3_requests.py",
        "        if got != due:\n",
        "        if got > due:\n",
        (f"{BUCKET_TEST}::test_a_body_shorter_than_it_was_announced_is_read_again",),
    ),
    Mutant(
        "the listing of a bucket ends with its first page",
        BUCKET,
        '            if not answer.get("IsTruncated"):\n                return\n            where["ContinuationToken"]',
        '            if answer:\n                return\n            where["ContinuationToken"]',
        (f"{BUCKET_TEST}::test_a_listing_takes_one_request_a_thousand_keys_and_holds_each_once",),
    ),
    Mutant(
        "the receipt is created before the parts",
        COMMIT,
        """        for table, data in contents.items():
            location.put_part(part_path(table, receipt.parts[table]), data)
        receipt, data = sealed(receipt)
        if location.create_once(receipt_path(receipt.shard, receipt.generation), data):
""",
        """        receipt, sealed_data = sealed(receipt)
        is_first = location.create_once(receipt_path(receipt.shard, receipt.generation), sealed_data)
        for table, data in contents.items():
            location.put_part(part_path(table, receipt.parts[table]), data)
        if is_first:
""",
        (f"{COMMIT_TEST}::test_a_receipt_is_created_after_all_of_its_parts",),
    ),
    Mutant(
        "a late writer writes its parts first",
        COMMIT,
        "read_receipt(location, receipt.shard, receipt.generation)\n    if existing is None:\n        for",
        "None\n    if existing is None:\n        for",
        (f"{COMMIT_TEST}::test_a_late_writer_loses_and_writes_no_parts",),
    ),
    Mutant(
        "the parts that lost stay",
        COMMIT,
        "        if is_superseded or part != existing.parts[table]:\n",
        "        if is_superseded:\n",
        (f"{COMMIT_TEST}::test_a_writer_overtaken_between_its_parts_and_its_receipt_loses",),
    ),
    Mutant(
        "a repeated commit deletes the parts that count",
        COMMIT,
        "        if is_superseded or part != existing.parts[table]:\n",
        "        if is_superseded or part == existing.parts[table]:\n",
        (f"{COMMIT_TEST}::test_a_repeated_commit_wins_again_and_writes_nothing",),
    ),
    Mutant(
        "a writer that wakes up after a retry leaves its parts",
        COMMIT,
        "        if is_superseded or part != existing.parts[table]:\n",
        "        if part != existing.parts[table]:\n",
        (
            "tests/store/runs/test_retry_commit.py"
            "::test_a_writer_that_wakes_up_after_a_retry_and_its_collection_leaves_no_part_behind",
        ),
    ),
    Mutant(
        "a shard in another order than the plan's is committed",
        COMMIT,
        "    if got == list(planned_ids):\n",
        "    if sorted(got) == sorted(planned_ids):\n",
        (f"{COMMIT_TEST}::test_a_block_that_is_not_exactly_the_plans_shard_is_refused",),
    ),
    Mutant(
        "a receipt does not name its header",
        COMMIT,
        "        header_sha256=provenance.header_sha256,\n",
        "",
        ("tests/store/checks/test_verify.py::test_a_complete_run_accounts_for_every_planned_image",),
    ),
    Mutant(
        "the first generation that is listed counts",
        RECEIPTS,
        "        highest[shard] = max(generation, highest.get(shard, 0))\n",
        "        highest.setdefault(shard, generation)\n",
        (f"{RECEIPTS_TEST}::test_names_alone_tell_the_highest_generation_of_each_shard",),
    ),
    Mutant(
        "a receipt under the name of another generation counts",
        RECEIPTS,
        "    if (receipt.shard, receipt.generation) != (shard, generation):\n",
        "    if receipt.shard != shard:\n",
        (f"{RECEIPTS_TEST}::test_a_receipt_under_anothers_name_is_refused",),
    ),
    Mutant(
        "a receipt of another run counts",
        RECEIPTS,
        "        if known and receipt.header_sha256 not in known:\n",
        "        if known and receipt.header_sha256 is None:\n",
        (f"{RECORDS_TEST}::test_a_receipt_of_another_run_is_refused_also_where_its_own_digest_holds",),
    ),
    Mutant(
        "only the first batch of receipts is read",
        RECEIPTS,
        "        while some := tuple(islice(remaining, AT_ONCE)):\n",
        "        if some := tuple(islice(remaining, AT_ONCE)):\n",
        (f"{RECEIPTS_TEST}::test_more_receipts_than_a_batch_come_in_order",),
    ),
    Mutant(
        "a seal is not verified",
        "store/runs/seals.py",
        '    if seal is not None and sha256_hex(data[: seal.start()] + b"\\n}") != seal[1].decode():\n',
        "    if seal is not None and not seal[1]:\n",
        (f"{RECORDS_TEST}::test_a_changed_field_of_the_header_is_found_by_all_who_open_it",),
    ),
    Mutant(
        "a record without its seal counts",
        "store/runs/seals.py",
        "    if (version >= _FIRST_SEALED_VERSION) != (seal is not None):\n",
        "    if (version >= _FIRST_SEALED_VERSION) < (seal is not None):\n",
        (f"{RECORDS_TEST}::test_a_record_that_only_looks_otherwise_was_changed_too",),
    ),
    Mutant(
        "a second header replaces the first",
        HEADER,
        "    if location.create_once(HEADER_NAME, data):\n",
        "    location.replace(HEADER_NAME, data)\n    if data:\n",
        (f"{HEADER_TEST}::test_the_first_header_stands",),
    ),
    Mutant(
        "an extension of another plan counts",
        HEADER,
        "        if extension.header_sha256 != header.sha256:\n",
        "        if extension.header_sha256 is None:\n",
        (f"{RECORDS_TEST}::test_an_extension_of_another_header_is_refused",),
    ),
    Mutant(
        "an extension that is lost goes unnoticed",
        HEADER,
        "    if numbers != list(range(2, 2 + len(numbers))):\n",
        "    if 1 in numbers:\n",
        (f"{HEADER_TEST}::test_a_lost_extension_is_told",),
    ),
)
