"""The tables and the figure of PPT in one command each: recipes, training, evaluation, and a page."""
