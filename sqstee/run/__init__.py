"""The write side, in data order: child, capture, spool, replay, pack, ship; `run` wires them."""
