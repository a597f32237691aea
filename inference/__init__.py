"""The fit: NumPyro and ArviZ live here, and the command line. Import what you need from its modules."""
