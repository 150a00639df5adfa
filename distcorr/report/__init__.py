"""Presentation: reads a finished run, computes no features, needs no Ray."""
