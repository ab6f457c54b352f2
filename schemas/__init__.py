"""The ground floor: configuration, table schemas, run records and errors; imports nothing else of the project."""
