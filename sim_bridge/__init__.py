"""Habitat as an environment, as a server, as ROS 2 topics."""
