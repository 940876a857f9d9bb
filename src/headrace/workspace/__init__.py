"""One repository of a company's pipelines: read it, plan it, apply it, run it."""
