"""What has to work on Linux, Windows and macOS: `pytest tests/platforms -m quick` in CI on each."""
