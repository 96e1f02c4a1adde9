"""From a plan to records: `plan`, `evaluate`, `records`, and the same steps in memory
(`single`).
"""
