"""What lopbench costs: its populations against plain PyTorch loops, timed side by side (`python -m benchmarks.run`)."""
