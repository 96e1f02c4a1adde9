"""What has to work on Linux, Windows and macOS: `pytest -m quick` runs it on each in CI."""
