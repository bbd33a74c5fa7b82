"""One process that ships for every run on the host."""
