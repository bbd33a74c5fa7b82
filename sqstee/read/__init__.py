"""The read side, in data order: receive, decode, order, show, acknowledge. `follower` connects the parts."""
