"""What is still measured of docs/records/quality.md: the annotation, and what a student learns; one module a part."""
