"""The gate: is a run worse than its baseline? `cambench baseline`, `cambench check`, and their
error rates.

verdicts = judge(load_baseline("leaderboards/gate/baseline.parquet"), load_baseline("runs/now"))
"""
