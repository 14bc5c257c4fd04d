"""Pruning: zeros in the weights (`masks`), and channels that are really taken out (`remove`, `taylor`, `lasso`).

Every step has one shape: a detector and a configuration in, a smaller detector and a report out. The detector given is
left as it was.
"""
