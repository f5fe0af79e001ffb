"""Where records go: a parquet table (the source of truth), TensorBoard, the console, run.json."""
