"""Backups: one file with everything that cannot be rebuilt, saved from and restored into any kind of store."""
