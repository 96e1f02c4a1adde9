"""Estimate what a run costs before it starts: work, time, disk and memory."""
