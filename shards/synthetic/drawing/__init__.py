"""Drawing of the synthetic sets: people from any side, cameras, walks, and pairs of actions."""
