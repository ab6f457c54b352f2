"""Audits simulated where the truth is known: does the interval hold it, and how wide is it?

The package's command simulates audits of `populations`, `drawn_run` those of annotated scenes; both draw and judge by
`simulated_audits`, and by `page` put rows into results/audits.json and tables into audits.md of docs. Audits
run the code that users run (`pseudoris.audit`), with fixed seeds. Tests hold the page to the record, and the record to
what is promised (`simulated_audits.failures`).
"""
