"""What many tests build: the records of a log, and a small catalogue."""
