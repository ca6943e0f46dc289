"""Thin ROS 2 nodes around ``navigation``, ``policy`` and ``motion``."""
