"""The data's life between its tiers: what moves, expires, is compared and exported, on a schedule."""
