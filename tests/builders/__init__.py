"""Builders shared by many tests: log records and a small catalogue."""
