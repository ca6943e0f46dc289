"""Recordings: ROS 2 bags written and read, and runs in them; no ROS needed."""
