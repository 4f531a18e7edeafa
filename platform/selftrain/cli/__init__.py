"""The command line: main.py parses, runs a command and words its errors; the other files hold the commands, a group each."""

from selftrain.cli.main import main

__all__ = ["main"]
