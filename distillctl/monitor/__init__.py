"""Following a run while it trains: its state, folded from its events, and the displays and trackers of it."""
