"""From a run's results to tables, plots and one page."""
