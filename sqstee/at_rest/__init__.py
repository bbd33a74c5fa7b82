"""What lines and events look like at rest: one description of their columns, and Arrow tables of them."""
