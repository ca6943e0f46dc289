"""From plans of discrete actions to velocities, with the rules that stop them; no ROS here."""
