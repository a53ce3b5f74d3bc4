"""What a query means: spelling, slots, numbers, language. `pipeline.Understander` is the way in."""
