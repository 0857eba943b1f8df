"""The recipe: group advantages, the clipped loss, and the reference trainer."""
