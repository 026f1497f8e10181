"""What people read about runs: plots, tables, and results of experiments."""
