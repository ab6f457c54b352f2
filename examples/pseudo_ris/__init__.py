"""The tables of Pseudo-RIS, each in one command: annotate, train, evaluate, a page beside the published row.

`__main__` runs what `steps` plans over `inputs`; human texts are for the table `semi`, and to evaluate.
"""
