"""The simulator used where habitat-sim is not installed: floor, pictures, habitat-lab glue."""
