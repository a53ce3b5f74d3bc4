"""Data sets on disk: the folder form that every command reads, and converters from common public formats."""
