"""Fast DDS by sockets alone, so that no node waits for another process.

On one machine Fast DDS sends through shared memory, where a mutex guards every receiver's queue. A
receiver that is stopped (a debugger, Ctrl-Z) or killed while it holds that mutex blocks all who
publish to it, for good: an RViz that somebody stops could take the driver's control loop with it.
In 200 stops of a node it happened 5 times. Sockets have no such lock, and lose no more images.
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..resources import shipped

PROFILE, OLD_PROFILE = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
"""Fast DDS 3 (Kilted and newer) reads the first, Fast DDS 2 the second."""
OLD_LIBRARY = 'libfastrtps.so'


def sockets_only(environ: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """(environment variables to set before rclpy.init, why not: empty when it is done).

    A profile that the user named stays: it may hold a discovery server or a whitelist.
    """
    import rclpy  # here, because who only starts nodes imports no ROS before

    if not rclpy.get_rmw_implementation_identifier().startswith('rmw_fastrtps'):
        return {}, ''   # the others use shared memory only when they are told to
    # that call has loaded the middleware
    old = OLD_LIBRARY in Path('/proc/self/maps').read_text('utf-8')
    variable = OLD_PROFILE if old else PROFILE
    given = environ.get(variable, '')
    here, anywhere = (str(shipped(f'config/fastdds_sockets_{name}.xml'))
                      for name in ('here', 'anywhere'))
    if given not in ('', here, anywhere):
        return {}, (f'{given} decides how Fast DDS sends; with shared memory (SHM) in it, who is '
                    'stopped or killed can block who publishes to it')
    only_here = [name for name, value in (('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST'),
                                          ('ROS_LOCALHOST_ONLY', '1'))
                 if environ.get(name) == value]
    if not only_here:
        return {variable: given or anywhere}, ''
    # Told so, the middleware would add shared memory to any profile; this one keeps to the
    # loopback device by itself.
    other = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SYSTEM_DEFAULT', 'ROS_LOCALHOST_ONLY': '0'}
    return {variable: here, **{name: other[name] for name in only_here}}, ''
