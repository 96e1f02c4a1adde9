"""What has to work on Linux, Windows and macOS; CI runs `pytest tests/platforms -m quick` there."""
