"""Habitat as ROS 2 topics, and the runner of episodes through the graph."""
