"""Measures speed: both versions in one run, median of several, as a ratio, with peak memory.

| command | measures |
| --- | --- |
| `python -m evidence.benchmarks` | eleven of these on the embedded models (`PARTS`), as `make bench` |
| `python -m evidence.benchmarks.end_to_end` | images to scored expressions, against what the authors' scripts do |
| `python -m evidence.benchmarks.captioner` | captions of one image, against the authors' loop |
| `python -m evidence.benchmarks.vlm_captioner` | those of a vision-language model, against a loop and `generate` |
| `python -m evidence.benchmarks.masks` | mask generation, against Meta's generator |
| `python -m evidence.benchmarks.crops` | all crops of an image, against Pillow |
| `python -m evidence.benchmarks.filter` | the filter, beside the captioner and against one that shares nothing |
| `python -m evidence.benchmarks.listener_cost` | what the listener adds to captioning |
| `python -m evidence.benchmarks.gpu_session` | the first ten minutes of a GPU, its profile first; `make gpu` |
| `python -m evidence.benchmarks.gpu_limits` | what stages ask of a GPU, counted without one; five cards, modelled |
| `python -m evidence.benchmarks.synchronisations` | where the CPU would wait for a GPU, counted without one |
| `python -m evidence.benchmarks.pipeline` | a run on Ray, against the same work in one process |
| `python -m evidence.benchmarks.first_result` | from the command to the first shard, against bare Ray Data |
| `python -m evidence.benchmarks.scale` | what a shard costs the driver, against bare Ray Data |
| `python -m evidence.benchmarks.memory` | how the memory of a long run grows, against bare Ray Data |
| `python -m evidence.benchmarks.dataset` | a run as a torch dataset, against CRIS's files and LMDB |
| `python -m evidence.benchmarks.exports` | each export over runs of two sizes |

Sides that compute the same get the same images, weights and draws. They are compared first: where they differ by more
than rounding there is no figure; captioners tell how many captions are equal. Without a command of their own:
`measurement` (command line, rows, JSON: for all), `process_watch` (end_to_end, masks, first_result, memory, scale),
`chain_sides` (end_to_end), `mask_sides` (masks, chain_sides, gpu_session_work), `dataset_inputs` (dataset, exports),
`scale_driver` and `plugins/` (scale, memory, first_result, pipeline), `gpu_session_work` and `gpu_agreement`
(gpu_session), `gpu_meter` and `counted_graph` (gpu_limits), `operation_counts` (captioner, chain_sides, gpu_meter).

What has left stands in the history: docs/records names the commit and the command beside the figures. The plain
references that tests use too are in `tests/oracles/`.

Records are in `evidence/benchmarks/results/`, the tables in docs/records/performance.md and scale.md. Quality is
measured in `evidence/experiments/`.
"""
