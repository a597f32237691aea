"""Samplers behind plain functions: a model and a key in, arrays out."""
