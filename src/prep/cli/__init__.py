"""The command line: options in, one library call, one printed result."""

from prep.cli.app import main

__all__ = ["main"]
