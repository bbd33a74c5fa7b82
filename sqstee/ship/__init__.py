"""From the spool to the destination: read, pack, send, acknowledge, delete."""
