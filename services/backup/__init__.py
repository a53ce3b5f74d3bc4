"""Backups: one file of everything that cannot be rebuilt, of whatever stores, into whatever stores."""
