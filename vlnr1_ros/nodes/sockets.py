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
TRANSPORTS = 'FASTDDS_BUILTIN_TRANSPORTS'
"""What Fast DDS 2.12 and newer sends by, where no profile says it."""
WITHOUT_MEMORY = ('UDPv4', 'UDPv6')
HERE = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'ROS_LOCALHOST_ONLY': '1'}
"""Told so, the middleware adds shared memory to any profile."""
ANYWHERE = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SYSTEM_DEFAULT', 'ROS_LOCALHOST_ONLY': '0'}
SHARED = 'shares memory with other processes ({}): who is stopped or killed can block who ' \
    'publishes to it'


def sockets_only(environ: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """(environment variables to set before rclpy.init, a warning where memory is shared).

    What the user has set about Fast DDS stays: it may hold a discovery server or a whitelist.
    """
    import rclpy  # here, because who only starts nodes imports no ROS before

    if not rclpy.get_rmw_implementation_identifier().startswith('rmw_fastrtps'):
        return {}, ''   # the others use shared memory only when they are told to
    # that call has loaded the middleware
    old = OLD_LIBRARY in Path('/proc/self/maps').read_text('utf-8')
    variable = OLD_PROFILE if old else PROFILE
    given, transports = environ.get(variable, ''), environ.get(TRANSPORTS, '')
    here, anywhere = (str(shipped(f'config/fastdds_sockets_{name}.xml'))
                      for name in ('here', 'anywhere'))
    users = given not in ('', here, anywhere)
    only_here = [name for name, value in HERE.items() if environ.get(name) == value]
    if only_here and (users or transports or environ.get('ROS_STATIC_PEERS')):
        return {}, SHARED.format(f'{only_here[0]}={HERE[only_here[0]]}')
    if users and 'SHM' in _text(given):
        return {}, SHARED.format(f'SHM in {given}')
    if users and not transports:
        return {TRANSPORTS: WITHOUT_MEMORY[0]}, ''
    if transports:
        memory = transports not in WITHOUT_MEMORY
        return {}, SHARED.format(f'{TRANSPORTS}={transports}') if memory else ''
    if only_here:   # the profile keeps to the loopback device by itself
        return {variable: here, **{name: ANYWHERE[name] for name in only_here}}, ''
    return {variable: given or anywhere}, ''


def _text(path):
    """Of a profile; what Fast DDS cannot read either is empty."""
    try:
        return Path(path).read_text('utf-8', errors='replace')
    except OSError:
        return ''
