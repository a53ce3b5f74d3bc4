"""Data sets on disk: the folder form that every command reads, and converters from forms people have."""
