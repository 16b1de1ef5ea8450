"""What watches a federation: the metrics of a run as it goes."""
