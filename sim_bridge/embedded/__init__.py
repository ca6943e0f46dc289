"""The simulator used when habitat-sim is not installed: navigation mesh, renderer, habitat-lab glue."""
