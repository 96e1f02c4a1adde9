"""Plots of a board: a file per figure."""
