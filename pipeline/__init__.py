"""The job: sources, plan, the Ray Data graph of stage actors, commit and resume. The only room that imports Ray."""
