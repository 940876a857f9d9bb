"""Signatures of the compiled module."""

API_VERSION: int
