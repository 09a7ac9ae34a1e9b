"""Attention maps: taken from a model, made into images of one size, stored and drawn."""
