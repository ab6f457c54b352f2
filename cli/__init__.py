"""The command line: one small module a command, and nothing that another room would want to import."""
