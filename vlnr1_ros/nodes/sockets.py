"""Fast DDS by sockets alone, so that no node waits for another process.

On one machine Fast DDS sends through shared memory, where a mutex guards every receiver's queue. A
receiver that is stopped (a debugger, Ctrl-Z) or killed while it holds that mutex blocks all who
publish to it, for good: an RViz that somebody stops could take the driver's control loop with it.
In 200 stops of a node it happened 5 times. Sockets have no such lock, and lose no more images.
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import rclpy

from ..resources import shipped

PROFILE, OLD_PROFILE = 'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'
"""Fast DDS 3 (Kilted and newer) reads the first, Fast DDS 2 the second."""
LIBRARY = re.compile(r'libfast(?:rtps|dds)\.so\.(\d+)\.(\d+)')
TRANSPORTS, TRANSPORTS_SINCE = 'FASTDDS_BUILTIN_TRANSPORTS', (2, 12)
"""What Fast DDS sends by where no profile says it; its release that reads it (Humble's does not).
"""
WITHOUT_MEMORY = ('UDPv4', 'UDPv6', 'NONE')
HERE = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', 'ROS_LOCALHOST_ONLY': '1'}
"""Told so, the middleware adds shared memory to any profile."""
ANYWHERE = {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SYSTEM_DEFAULT', 'ROS_LOCALHOST_ONLY': '0'}
SHARED = 'shares memory with other processes ({}): who is stopped or killed can block who ' \
    'publishes to it'


def sockets_only(environ: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """(environment variables to set before rclpy.init, a warning where memory is shared).

    What the user has set about Fast DDS stays: it may hold a discovery server or a whitelist.
    """
    if not rclpy.get_rmw_implementation_identifier().startswith('rmw_fastrtps'):
        return {}, ''   # the others use shared memory only when they are told to
    # that call has loaded the middleware
    found = LIBRARY.search(Path('/proc/self/maps').read_text('utf-8'))
    return changes(environ, tuple(map(int, found.groups())))


def changes(environ: Mapping[str, str], version: tuple[int, int]) -> tuple[dict[str, str], str]:
    """What `sockets_only` returns with Fast DDS of that version."""
    variable = OLD_PROFILE if version < (3, 0) else PROFILE
    reads = version >= TRANSPORTS_SINCE
    given = environ.get(variable, '')
    transports = environ.get(TRANSPORTS, '') if reads else ''
    here, anywhere = (str(shipped(f'config/fastdds_sockets_{name}.xml'))
                      for name in ('here', 'anywhere'))
    users = given not in ('', here, anywhere)
    only_here = [name for name, value in HERE.items() if environ.get(name) == value]
    if only_here and (users or transports or environ.get('ROS_STATIC_PEERS')):
        return {}, SHARED.format(f'{only_here[0]}={HERE[only_here[0]]}')
    says = _says(given) if users else ''
    if says not in ('', *WITHOUT_MEMORY):
        return {}, SHARED.format(f'{says} in {given}')
    if transports:
        memory = transports.partition('?')[0] not in WITHOUT_MEMORY and not says
        return {}, SHARED.format(f'{TRANSPORTS}={transports}') if memory else ''
    if users and not says:
        return ({TRANSPORTS: WITHOUT_MEMORY[0]}, '') if reads else \
            ({}, SHARED.format(f'no transports in {given}'))
    if users:
        return {}, ''
    if only_here:   # the profile keeps to the loopback device by itself
        return {variable: here, **{name: ANYWHERE[name] for name in only_here}}, ''
    return {variable: given or anywhere}, ''


def _says(path) -> str:
    """What a profile sends by: SHM, the name of built-in transports, or '' when it says nothing.

    What cannot be read says nothing, to Fast DDS neither.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return ''
    texts = {}
    for element in root.iter():
        name = element.tag.rpartition('}')[2]
        texts.setdefault(name, set()).add((element.text or '').strip())
    if 'SHM' in texts.get('type', ()):
        return 'SHM'
    named = texts.get('builtinTransports', set()) - set(WITHOUT_MEMORY)
    if named:
        return min(named)
    silent = 'false' in texts.get('useBuiltinTransports', ()) or 'builtinTransports' in texts
    return WITHOUT_MEMORY[0] if silent else ''
