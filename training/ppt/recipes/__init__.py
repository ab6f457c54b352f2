"""PPT's data recipes (sections 3.2 and 3.3): they write D_sem, D_ref, H_sem and H_ref as runs. Called by `cli/ppt.py`.

Such a run is a run like any other: every reader, `verify` and a resume take it.
"""
