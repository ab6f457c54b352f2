"""Crops of images: which box and scale, resampled in tiles of fixed shapes, and images decoded ahead of their use.

All models of `workers` see a mask through these crops. A crop has the same bits whatever is computed beside it.
"""
