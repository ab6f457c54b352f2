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
    Mutant(
        "a plan is read one shard past its end",
        PLAN,
        "        if row_group >= parquet.num_row_groups:\n",
        "        if row_group > parquet.num_row_groups:\n",
        (f"{PLAN_TEST}::test_a_shard_that_is_not_planned_is_told",),
    ),
    Mutant(
        "the first shard of a plan's part is looked for in the part before",
        PLAN,
        "    at = bisect_right(firsts, shard) - 1\n",
        "    at = max(0, sum(first < shard for first in firsts) - 1)\n",
        (f"{PLAN_TEST}::test_what_was_planned_is_read_back_shard_by_shard",),
    ),
    Mutant(
        "the digest of a plan's part is not compared",
        PLAN,
        "    if sha256_hex(data) != record.sha256:\n",
        "    if len(data) != record.size_bytes:\n",
        (f"{PLAN_TEST}::test_a_part_of_another_content_is_refused",),
    ),
    Mutant(
        "a gap between shards is planned",
        PLAN,
        "        if due not in (None, shard):\n",
        "        if due is not None and shard < due:\n",
        (f"{PLAN_TEST}::test_a_gap_between_shards_is_refused",),
    ),
    Mutant(
        "a driver that was taken over goes on beating",
        LOCK,
        "        if number != self._number or holder is None or holder.owner != self._claim.owner:\n",
        "        if holder is None:\n",
        (f"{LOCK_TEST}::test_whoever_was_taken_over_is_told_at_the_next_beat_and_disturbs_nobody",),
    ),
    Mutant(
        "a beat does not raise the counter",
        LOCK,
        "counter=self._claim.counter + 1)",
        "counter=self._claim.counter)",
        (f"{LOCK_TEST}::test_a_held_lock_beats_by_itself_and_is_released_at_the_end",),
    ),
    Mutant(
        "the loss of a lock is forgotten",
        LOCK,
        "                self._loss = loss\n                return\n",
        "                return\n",
        (f"{LOCK_TEST}::test_a_held_lock_that_is_lost_stops_its_owner",),
    ),
    Mutant(
        "a claim is not looked at again after its creation",
        LOCK,
        """            location.create_once(_path(number + 1), claim_to_bytes(own))
            # Check the files, not the return value: others may have claimed, released and cleaned up since we looked.
            if _highest(location) == (number + 1, own):
""",
        "            if location.create_once(_path(number + 1), claim_to_bytes(own)):\n",
        (f"{LOCK_TEST}::test_a_claim_below_one_that_appeared_meanwhile_is_no_lock",),
    ),
    Mutant(
        "a silent owner is watched for half a minute",
        LOCK,
        "    while times.clock() - start < times.watch_s:\n",
        "    while times.clock() - start < times.watch_s / 2:\n",
        (f"{LOCK_TEST}::test_an_owner_who_shows_a_sign_of_life_keeps_the_run",),
    ),
    Mutant(
        "a process of another machine is looked for on this one",
        LOCK,
        "    if holder.host != _host():\n        return False\n",
        "",
        (f"{LOCK_TEST}::test_an_owner_who_shows_a_sign_of_life_keeps_the_run",),
    ),
    Mutant(
        "a lock is not released",
        LOCK,
        "            self.release()\n",
        "",
        (f"{LOCK_TEST}::test_a_held_lock_beats_by_itself_and_is_released_at_the_end",),
    ),
    Mutant(
        "a lock that is lost does not end the session",
        SESSION,
        "                self._lock.check()\n",
        "",
        (f"{SESSION_TEST}::test_a_session_whose_run_was_taken_over_ends_at_the_next_commit",),
    ),
    Mutant(
        "gc takes a young temporary file",
        GC,
        "for path, modified_s in unfinished if modified_s < limit_s]",
        "for path, modified_s in unfinished if modified_s < (now_s or 0.0)]",
        (f"{GC_TEST}::test_age_is_told_by_the_storages_clock_and_not_by_this_machines",),
    ),
    Mutant(
        "gc tells age by the clock of its machine",
        GC,
        "now_s = time.time() if is_dry else location.clock_s()",
        "now_s = time.time()",
        (f"{GC_TEST}::test_age_is_told_by_the_storages_clock_and_not_by_this_machines",),
    ),
    Mutant(
        "gc takes the last witness of a part that is lost",
        GC,
        "            if commit is None or receipt is None or receipt.parts[table].name not in names:\n",
        "            if commit is None or receipt is None:\n",
        (f"{GC_TEST}::test_a_receipt_whose_named_part_is_not_there_costs_no_other_part",),
    ),
    Mutant(
        "gc takes a generation in the making",
        GC,
        "            has_lost = commit[1] == receipt.generation and",
        "            has_lost = commit[1] >= receipt.generation and",
        (f"{GC_TEST}::test_what_may_be_in_the_making_or_is_not_ours_is_left_alone",),
    ),
    Mutant(
        "gc leaves the generation before the latest",
        GC,
        "            is_superseded = commit[1] < receipt.generation\n",
        "            is_superseded = commit[1] < receipt.generation - 1\n",
        (f"{GC_TEST}::test_a_superseded_generation_goes_and_its_receipt_stays",),
    ),
    Mutant(
        "a dry run of gc deletes",
        GC,
        "    for path in () if is_dry else report.deleted:\n",
        "    for path in report.deleted:\n",
        (f"{GC_TEST}::test_a_dry_run_names_by_kind_what_a_real_one_deletes",),
    ),
    Mutant(
        "gc takes the uploads of others below the run's prefix",
        GC,
        "location.list_uploads(_RUN_FILE)",
        "location.list_uploads()",
        ("tests/store/test_s3.py::test_gc_leaves_the_uploads_of_others_below_its_prefix",),
    ),
    Mutant(
        "deaths of an earlier session blame the shard",
        "store/runs/attempts.py",
        "            (each.pool, each.session_nonce) == (pool, session_nonce) and",
        "            each.pool == pool and",
        (f"{ATTEMPTS_TEST}::test_deaths_with_their_node_with_their_driver_or_in_another_pool_blame_nobody",),
    ),
    Mutant(
        "deaths with their node blame the shard",
        "store/runs/attempts.py",
        " and each.node in nodes for each in",
        " for each in",
        (f"{ATTEMPTS_TEST}::test_deaths_with_their_node_with_their_driver_or_in_another_pool_blame_nobody",),
    ),
    Mutant(
        "an attempt that ended counts as a death",
        "store/runs/attempts.py",
        "        open_ones = self.begun - self.ended\n",
        "        open_ones = self.begun\n",
        (f"{ATTEMPTS_TEST}::test_an_attempt_that_has_ended_is_no_death",),
    ),
    Mutant(
        "a retry keeps the old rows of its images",
        RETRY,
        "_in_plan_order(_without(before[table], retried), new[table], order)",
        "_in_plan_order(before[table], new[table], order)",
        (f"{RETRY_TEST}::test_the_other_images_rows_stay_as_they_were_and_the_retried_stand_in_plan_order",),
    ),
    Mutant(
        "a retry appends its images",
        RETRY,
        '    return rows.take(pa.array(np.argsort(places, kind="stable")))\n',
        "    return rows\n",
        (f"{RETRY_TEST}::test_the_other_images_rows_stay_as_they_were_and_the_retried_stand_in_plan_order",),
    ),
    Mutant(
        "a retry that changes nothing commits",
        RETRY,
        "merged[table].equals(before[table])",
        "merged[table] is before[table]",
        (f"{RETRY_TEST}::test_a_retry_that_fails_in_the_same_way_commits_nothing",),
    ),
    Mutant(
        "a retry replaces a good image",
        RETRY,
        "    if unasked:\n",
        "    if len(unasked) > 1:\n",
        (f"{RETRY_TEST}::test_a_retry_of_images_that_were_not_in_quarantine_is_refused",),
    ),
    Mutant(
        "a retry starts from the first generation",
        RETRY,
        "    base = read_receipt(location, shard.shard, shard.generation - 1)\n",
        "    base = read_receipt(location, shard.shard, 0)\n",
        (f"{RETRY_TEST}::test_some_of_the_quarantined_images_can_be_retried_and_the_rest_later",),
    ),
    Mutant(
        "an excluded image is retried",
        "store/runs/pending_work.py",
        "    return reason not in FINAL_REASONS and (reasons is None or reason in reasons)\n",
        "    return reasons is None or reason in reasons\n",
        ("tests/store/runs/test_pending_work.py::test_excluded_images_are_not_retried",),
    ),
    Mutant(
        "a retry recomputes the good images of its shard",
        TASKS,
        "[entry for entry in planned if entry.image_id in wanted])",
        "planned)",
        (f"{TASKS_TEST}::test_a_retry_reads_the_quarantined_images_and_knows_the_whole_plan",),
    ),
    Mutant(
        "a retry does not raise the generation",
        TASKS,
        "    return ShardWork(base + 1, planned,",
        "    return ShardWork(base, planned,",
        (f"{TASKS_TEST}::test_a_retry_reads_the_quarantined_images_and_knows_the_whole_plan",),
    ),
    Mutant(
        "a committed shard is computed again",
        TASKS,
        "        if read_receipt(job.location, shard, 0) is not None:\n            return ShardWork(0)\n",
        "",
        (f"{TASKS_TEST}::test_a_shard_that_is_committed_already_is_not_read_and_is_answered_with_its_receipt",),
    ),
    Mutant(
        "the records of a committed shard's attempts stay",
        TASKS,
        "    clear_attempts(job.location, history)\n",
        "",
        (f"{TASKS_TEST}::test_a_shard_that_is_committed_already_is_not_read_and_is_answered_with_its_receipt",),
    ),
    Mutant(
        "an extension numbers its shards from 0",
        EXTENSION,
        "first_shard=header.num_shards, tally=tally)",
        "first_shard=0, tally=tally)",
        (f"{EXTENSION_TEST}::test_new_keys_get_shards_of_their_own_after_the_plans",),
    ),
    Mutant(
        "a listing out of order is planned",
        EXTENSION,
        "        if last is not None and place < last:\n",
        "        if last is not None and place == last:\n",
        (f"{EXTENSION_TEST}::test_a_listing_out_of_order_is_refused_and_never_planned_twice",),
    ),
    Mutant(
        "a planned image with another etag counts as known",
        EXTENSION,
        "    return (item.etag, item.size_bytes,",
        "    return (entry.etag, item.size_bytes,",
        (f"{EXTENSION_TEST}::test_a_known_key_that_changed_is_reported_and_left_alone",),
    ),
    Mutant(
        "a snapshot overwrites another writer's",
        MANIFEST,
        "        if location.create_once(path, data):\n",
        "        location.replace(path, data)\n        if data:\n",
        (f"{MANIFEST_TEST}::test_a_number_that_another_writer_took_is_passed_over",),
    ),
    Mutant(
        "a snapshot that lacks shards counts as complete",
        MANIFEST,
        "for each in iter_manifest(location)) and not left\n",
        "for each in iter_manifest(location))\n",
        (f"{SESSION_TEST}::test_a_run_killed_after_its_last_commit_is_finished_without_work",),
    ),
    Mutant(
        "a snapshot that was changed is read",
        MANIFEST,
        "        if intact is False:\n",
        "        if intact is None:\n",
        (f"{RECORDS_TEST}::test_readers_take_the_receipts_where_the_manifest_was_changed_and_a_dataset_refuses_it",),
    ),
    Mutant(
        "a receipt that was written again is taken from the snapshot",
        MANIFEST,
        "            if ahead.shard not in anew and (ahead.shard, ahead.generation) in wanted:\n",
        "            if (ahead.shard, ahead.generation) in wanted:\n",
        (f"{MANIFEST_TEST}::test_a_receipt_that_was_written_again_is_read_anew",),
    ),
    Mutant(
        "the last snapshot is written before gc",
        SESSION,
        "            run_gc(self._location)\n            self._write_manifest()\n",
        "            self._write_manifest()\n            run_gc(self._location)\n",
        (f"{SESSION_TEST}::test_garbage_goes_before_the_last_manifest_and_the_card_comes_after_it",),
    ),
    Mutant(
        "a session ends well though shards are left",
        SESSION,
        "        if num_left > 0:\n",
        "        if num_left < 0:\n",
        (f"{SESSION_TEST}::test_shards_that_come_back_without_a_commit_are_an_error",),
    ),
    Mutant(
        "the receipt that a retry replaces is counted too",
        SESSION,
        "            self._totals.remove(replaced)\n",
        "",
        (f"{SESSION_TEST}::test_a_retry_that_changes_nothing_leaves_its_receipts_standing",),
    ),
    Mutant(
        "a digest of a part is not compared",
        "store/checks/shard_parts.py",
        "    if (digest := sha256_hex(data)) != part.sha256:\n",
        "    if len(digest := sha256_hex(data)) != len(part.sha256):\n",
        ("tests/store/checks/test_shard_parts.py::test_a_byte_that_changed_anywhere_is_found",),
    ),
    Mutant(
        "a part that counts was deleted and is not missed",
        "store/checks/shard_parts.py",
        "    if size is None:\n        what",
        "    if size is None and table == IMAGES:\n        what",
        ("tests/store/checks/test_shard_parts.py::test_every_missing_part_is_found",),
    ),
    Mutant(
        "the root does not cover the parts",
        "store/runs/root_digest.py",
        "{table: [part.rows, part.sha256] for",
        "{table: [part.rows] for",
        (f"{RECORDS_TEST}::test_who_changes_a_receipt_and_its_digest_still_changes_the_root",),
    ),
    Mutant(
        "an image that cannot be worked on with others blames its neighbours",
        QUARANTINE,
        "lambda one: work([one])[0]) for image in group]",
        "lambda one: work(group)[0]) for image in group]",
        (f"{QUARANTINE_TEST}::test_of_a_group_only_the_image_at_fault_is_quarantined",),
    ),
    Mutant(
        "an error of the disk blames the image",
        QUARANTINE,
        "    if isinstance(error, OSError | PseudorisError) or",
        "    if isinstance(error, PseudorisError) or",
        (f"{QUARANTINE_TEST}::test_memory_storage_and_accelerator_errors_are_never_an_images_fault",),
    ),
    Mutant(
        "the want of memory blames the image",
        QUARANTINE,
        "    return not is_out_of_memory(error) and not is_broken_device(error)\n",
        "    return not is_broken_device(error)\n",
        (f"{QUARANTINE_TEST}::test_memory_storage_and_accelerator_errors_are_never_an_images_fault",),
    ),
    Mutant(
        "a compiler that is missing blames the image",
        QUARANTINE,
        " or type(error).__module__.startswith(_COMPILERS):",
        ":",
        (f"{QUARANTINE_TEST}::test_what_the_machine_or_the_project_raises_blames_no_image",),
    ),
    Mutant(
        "the reason of an earlier quarantine is replaced",
        QUARANTINE,
        "image if image.failure else _guarded(image, stage, work) for",
        "_guarded(image, stage, work) for",
        (f"{QUARANTINE_TEST}::test_quarantined_images_are_not_worked_on_and_seconds_are_recorded",),
    ),
    Mutant(
        "a table holds the text of a foreign exception",
        QUARANTINE,
        "raised {type(error).__name__}; the log",
        "raised {error}; the log",
        (f"{QUARANTINE_TEST}::test_an_image_on_which_a_stage_raises_is_quarantined_without_the_foreign_text",),
    ),
    Mutant(
        "a process that was killed from outside blames the image",
        TOLERANT,
        "            if death.is_external_signal:\n",
        "            if death.status == 0:\n",
        (f"{TOLERANT_TEST}::test_a_process_that_somebody_else_kills_again_and_again_blames_no_image",),
    ),
    Mutant(
        "the death of a process that loads blames the image",
        TOLERANT,
        "            if death.stage is None:\n",
        "            if death.status == 0:\n",
        (f"{TOLERANT_TEST}::test_an_image_that_raised_is_not_blamed_where_the_other_process_dies_while_it_loads",),
    ),
    Mutant(
        "an image that kills one process is quarantined",
        TOLERANT,
        "    num_external, has_died = 0, False\n",
        "    num_external, has_died = 0, True\n",
        (f"{TOLERANT_TEST}::test_an_image_with_which_one_process_died_is_not_blamed",),
    ),
    Mutant(
        "the image that kills is looked for after three deaths",
        TOLERANT,
        "CRASHES_BEFORE_SEARCH: Final = 2\n",
        "CRASHES_BEFORE_SEARCH: Final = 3\n",
        (f"{TOLERANT_TEST}::test_an_error_of_the_machine_in_the_search_blames_no_image",),
    ),
    Mutant(
        "images that raised share a process",
        TOLERANT,
        """        for image in before.images:
            if image.position in raised:
                # A new subprocess for each image, because a stage that raised may have damaged its process.
                with SubprocessStages((kind.name,), self._config) as child:
                    again[image.position] = retry_in_subprocess(before, image, child)
""",
        """        with SubprocessStages((kind.name,), self._config) as child:
            for image in before.images:
                if image.position in raised:
                    again[image.position] = retry_in_subprocess(before, image, child)
""",
        (f"{TOLERANT_TEST}::test_each_image_that_raises_has_a_process_of_its_own",),
    ),
    Mutant(
        "tiles are halved unasked",
        TOLERANT,
        "                if not self._config.placement.allow_degraded or not halved:\n",
        "                if not halved:\n",
        (f"{TOLERANT_TEST}::test_memory_that_runs_out_twice_ends_the_run_and_names_the_setting",),
    ),
    Mutant(
        "an output that takes nothing sets each shard aside",
        FAULTS,
        "        _hasty(job).location.probe()\n",
        "        pass\n",
        (f"{FAULTS_TEST}::test_an_output_that_takes_nothing_stops_the_run",),
    ),
    Mutant(
        "a full disk sets each shard aside",
        FAULTS,
        "    if isinstance(cause, OSError) and cause.errno in _FULL:\n",
        "    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:\n",
        (f"{FAULTS_TEST}::test_a_shard_that_alone_cannot_be_written_is_set_aside_and_a_full_disk_stops_the_run",),
    ),
    Mutant(
        "a source that gives nothing sets each shard aside",
        FAULTS,
        "    if not any(_reads(hasty, other) for other in dict.fromkeys(others) if other != shard):\n",
        "    if not any(other != shard for other in others):\n",
        (f"{FAULTS_TEST}::test_a_source_that_gives_no_shard_stops_the_run",),
    ),
    Mutant(
        "a commit between failures does not end their row",
        "store/runs/set_aside.py",
        "        self._row.clear()\n",
        "",
        ("tests/store/runs/test_set_aside.py::test_a_commit_between_failures_keeps_the_run_going",),
    ),
    Mutant(
        "a shard is tried once more than it may crash",
        ACTOR,
        "    if num_deaths >= job.config.placement.max_deaths_per_shard:\n",
        "    if num_deaths > job.config.placement.max_deaths_per_shard:\n",
        (f"{ACTOR_TEST}::test_after_too_many_deaths_the_shard_is_set_aside",),
    ),
    Mutant(
        "the end of an attempt is not recorded",
        ACTOR,
        "        end_attempt(job.location, attempt)\n",
        "        pass\n",
        (f"{ACTOR_TEST}::test_a_shard_goes_through_the_stages_and_its_attempt_is_recorded",),
    ),
    Mutant(
        "the stages are not told of deaths",
        ACTOR,
        "self._stages(shard, num_deaths=num_deaths)",
        "self._stages(shard, num_deaths=0)",
        (f"{ACTOR_TEST}::test_the_stages_are_told_how_many_processes_have_died_with_the_shard",),
    ),
)
