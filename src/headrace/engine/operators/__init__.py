"""One operator: one file. Every operator follows `headrace.engine.operator`."""
