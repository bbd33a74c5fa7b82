"""The form of lines and events at rest: one description of their columns, and Arrow tables of them."""
