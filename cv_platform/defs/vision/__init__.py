"""Clips through the graph: the five assets, their checks, and the one sensor that asks for their runs."""
