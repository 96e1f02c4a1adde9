"""Plan and compute a run: a choice of models, methods and metrics becomes records."""
