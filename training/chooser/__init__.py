"""The student that ships, called chooser: it chooses among the masks of SAM. For `cli`, `training`, experiments.

An untrained chooser answers as CLIP does. Checkpoints hold the trained layers alone.
"""
