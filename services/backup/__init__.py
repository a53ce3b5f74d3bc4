"""Backups: one file of everything that cannot be made anew, of whatever stores, into whatever stores."""
