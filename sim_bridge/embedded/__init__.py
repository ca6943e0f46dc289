"""The simulator used where habitat-sim is not installed: free floor, pictures, habitat-lab glue."""
