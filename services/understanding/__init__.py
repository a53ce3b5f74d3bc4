"""Query understanding: spelling, slots, numbers, language. The entry point is `pipeline.Understander`."""
