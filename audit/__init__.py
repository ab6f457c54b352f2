"""A person's verdicts on a sample of a run, and what they say about the whole run. For `cli`, examples, experiments.

`AUDIT` is a local folder. `draw` writes the first three files once; nothing changes them afterwards.

    AUDIT/draw.json                what was drawn from which run, and how; sealed            (`draw_files`)
    AUDIT/pairs.parquet            a row per pair of picture and expression to judge         (`draw_files`)
    AUDIT/images.parquet           a row per image: its bytes, and all of its masks          (`draw_files`)
    AUDIT/verdicts/<rater>.jsonl   a rater's answers, append-only, each line with a digest   (`audit_folder`)
"""

if not __name__.startswith("pseudoris."):
    # From the root of a clone, `import audit` would find this folder and load a second copy of every module.
    raise ImportError("'audit' is not a package of its own: import pseudoris.audit", name=__name__)
