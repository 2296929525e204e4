"""Anomaly detection for readings of monitored resources, release 1: four features, principal components."""
