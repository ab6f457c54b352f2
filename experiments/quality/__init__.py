"""Every figure of docs/quality.md: the quality of the annotation and what a student learns; one module a part."""
