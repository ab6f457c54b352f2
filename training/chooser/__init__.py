"""The student that ships, called chooser: it draws no mask, but chooses one that SAM proposes. Called by `cli`.

An untrained chooser answers as CLIP does. Checkpoints hold the trained layers alone.
"""
