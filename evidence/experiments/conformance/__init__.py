"""The page of conformance: what the papers and scripts say, what the code does, and what each difference changes.

`make conformance` runs `__main__`: `arm_counts` annotates and counts the `arms` whose counts results/conformance.json
lacks, `page` renders pseudo_ris.yaml and ppt.yaml with them. Tests hold the page to both, and each exact element to its
value in `paper` and to a test.
"""
