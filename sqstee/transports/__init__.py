"""Where bodies go and come from: one module per kind of destination, behind the Protocols of `base`."""
