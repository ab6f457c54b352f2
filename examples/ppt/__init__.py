"""The tables and the figure of PPT in one command each: recipes, training, evaluation, and a page.

`__main__` runs what `steps` plans, by `paper_rows` (also of evidence/experiments/ppt), and draws by `query_points`.
"""
