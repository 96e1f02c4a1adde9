"""What has to work on Linux, Windows and macOS: `pytest tests/platforms -m quick` runs it on each in CI."""
