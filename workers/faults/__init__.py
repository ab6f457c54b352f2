"""The fault ladder: what a process does if a stage raises, dies or runs out of memory, and which image is blamed.

| event | response | verdict |
|---|---|---|
| a stage raises `ImageError` | none: the image is bad | quarantined, with the error's reason |
| a stage raises on an image | one more try, in a fresh subprocess | saved, or `stage_error` |
| ... and so it does on all images of a shard, 3 or more | 3 of them retried | raises again: `ConfigError` |
| ... the subprocess dies of it | one more subprocess | dies again: `process_killed` |
| ... no subprocess, or no memory for it | `NoSubprocessError`: the process exits | none; the shard is retried |
| a stage returns for an image what no table holds | one more try, in a fresh subprocess | saved, or `bad_output` |
| a stage raises on a group or a shard | its images are tried one by one | as above |
| the process dies, its node lives | the shard is retried | none |
| ... twice with one shard | each image alone in a subprocess | kills two: `process_killed` |
| a subprocess is killed from outside | up to 3 tries, then `TransientError` | none; the shard is set aside |
| memory runs out | once more in a fresh subprocess | none; `ConfigError` names the setting |
| ... with `placement.allow_degraded` | tiles halved until they fit | none; the shard is `degraded` |
| the accelerator fails | `BrokenDeviceError`: the process exits | none; the shard is retried |
| storage, disk, compiler or a library of the GPU fails | none | none; the shard is set aside |
| ... in fixed shapes, with `placement.allow_degraded` | the tree captions it | none; the shard is `degraded` |
| a step cannot be recorded, or its replay gives NaN | the step is launched | none, unless NaN comes again |

A process that exits counts as dead. After `placement.max_deaths_per_shard` deaths with one shard it is set aside.

- `quarantine`: one try, inside a stage, and which errors may be blamed on an image. Engines of plug-ins use it too.
- `image_boundary`: around every engine; it holds what comes back to what an image's records may be.
- `tolerant_stages`: all rows of a process, from the event to the verdict.
- `subprocess_stages`, `subprocess_stages_main`: stages in a subprocess: the parent's side and the child's.

Child processes are started by `pseudoris.images.child_process`, which the prover uses too.

`pseudoris.pipeline.executor` runs `tolerant_stages` and counts the deaths. docs/records/faults.md draws the ladder, and
must agree with it.
"""
