"""Anomaly detection for readings of monitored resources, release 2: eight features, clusters of usual situations."""
