"""The fault ladder: what a process does if a stage raises, dies or runs out of memory, and which image is blamed.

docs/records/faults.md has its rows, from the event to the verdict: what changes here changes there too.

- `quarantine`: one try, inside a stage, and which errors may be blamed on an image. Engines of plug-ins use it too.
- `image_boundary`: around every engine; it holds what comes back to what an image's records may be.
- `tolerant_stages`: all rows of a process, from the event to the verdict.
- `subprocess_stages`, `subprocess_stages_main`: stages in a subprocess: the parent's side and the child's.

Child processes are started by `pseudoris.images.child_process`, which the prover uses too.

`pseudoris.pipeline.executor` runs `tolerant_stages` and counts the deaths: a process that exits counts as dead.
"""
