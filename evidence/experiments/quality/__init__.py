"""What is still measured of docs/records/quality.md: the annotation, and what a student learns; one module a part.

`make quality` runs `__main__`: the parts that `parts.MODULES` lists, then `page`. `expressions`, `judge`, `students`
(`student_arms`, `student_baselines`, `seed_bootstrap`) read whole runs (`scene_runs`); `ablation` (`ladder`),
`composition` and `listener` share annotated scenes (`annotated_scenes`). `markdown_cells` and `svg_chart` serve other
experiments, benchmarks and examples too. A part's fingerprint must name all that its result depends on beside the code:
by it a record is reused, or its section marked stale, as `Arm.digest` decides of a trained student. Tests
hold the pages to the records.
"""
