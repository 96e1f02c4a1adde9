"""Layouts that people have: each file reads one of them into the items of a subset."""
