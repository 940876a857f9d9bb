"""Aggregates: accumulators as columns of a slab."""
