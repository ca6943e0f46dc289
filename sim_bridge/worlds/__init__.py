"""Generated apartments, instructions and VLN-CE style episodes."""
