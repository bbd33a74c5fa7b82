"""The only buffer between capture and shipping: append-only segments on the node's own disk."""
