"""What people read about runs: plots, tables, and the HTML report."""
