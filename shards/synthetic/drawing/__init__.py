"""The drawing behind the synthetic set: people, how they look from any side, and the cameras that see them."""
