"""The command line: one small module a command, and nothing that another room would want to import."""

# Its bare name is not refused, as those of the other rooms are: `python -m cli` would not reach `__main__`, which names
# the new command.
