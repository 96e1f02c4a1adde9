"""A run: a plan becomes records. `evaluate` writes them to disk; `in_memory` explains and scores
one batch.
"""
