"""What-ifs: the analysis of simulated or stated outcomes, and the operating characteristics of a design."""
