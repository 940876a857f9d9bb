"""Keyed state in memory: hash index, slab of columns with undo, lists per slot, time buckets."""
