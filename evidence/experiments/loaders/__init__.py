"""Runs the loaders of other projects' trainers on exports: what of the tables each of them gives to its model.

`record` exports, runs a loader of `trainers` (listed in trainers.tsv) on code that `snapshots` finds in FOLDER, and
counts by `truth`. Lines that read an export must stay theirs. Tests hold the table of exports.md to the record.
"""
