"""The queries, one module each: the pipeline, and the same question as SQL over all events."""
