"""The read side, in data order: receive, order, show; `follow` wires them."""
