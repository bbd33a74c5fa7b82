"""The destinations: one module for each kind, behind the Protocols in `base`."""
