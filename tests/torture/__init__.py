"""Tests that break things on purpose: kills, flipped bits, full disks, rights, locks, words."""
