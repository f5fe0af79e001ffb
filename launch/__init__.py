"""The same run on many devices or nodes: not there yet."""
