"""Fakes of the services that sqstee speaks to."""
