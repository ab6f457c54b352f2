"""What is recorded while somebody collects, and that nothing is kept else."""

from __future__ import annotations

import threading

from pseudoris.schemas.measures import BATCH_FILL, STORAGE_RETRIES, collecting, count, record, take_counts


def test_a_threads_values_in_a_block_are_collected_by_name_and_by_what_they_are_of():
    with collecting() as measures:
        record(BATCH_FILL, 1.0, of="crops")
        record(BATCH_FILL, 0.5, of="crops")
        record(BATCH_FILL, 0.25, of="texts")
        thread = threading.Thread(target=record, args=("elsewhere", 1.0))
        thread.start()
        thread.join()
    record(BATCH_FILL, 1.0, of="crops")
    assert measures == {(BATCH_FILL, "crops"): [1.0, 0.5], (BATCH_FILL, "texts"): [0.25]}


def test_counts_come_from_every_thread_and_are_taken_once():
    take_counts()
    threads = [threading.Thread(target=count, args=(STORAGE_RETRIES, 2)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count(STORAGE_RETRIES)
    assert take_counts() == {STORAGE_RETRIES: 7}
    assert take_counts() == {}
