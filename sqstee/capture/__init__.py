"""The front: starts the command, passes its output through, spools a copy, and ends as the command ended."""
