"""The bridge's parameters: declared, checked, and as values in the units it works with."""
from __future__ import annotations

from dataclasses import dataclass

from rclpy.node import Node

from sim_bridge.config import EnvironmentConfig
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import runtime

PARTICIPANTS = ('driver', 'navigator')
VELOCITY, DISCRETE = MODES = ('velocity', 'discrete')


@dataclass(frozen=True)
class BridgeParameters:
    """What is read once, at start; `episodes` may change and is asked of the node.

    stamped: cmd_vel is TwistStamped. tick_ns: simulated time of a tick, which in discrete mode is
    that of an action. ticks_per_image: a tick in so many has an image. `*_timeout_s` of lockstep
    and startup are wall time, the others simulated time. policy_seed: -1 leaves the navigator's
    alone.
    """

    environment: EnvironmentConfig
    mode: str
    lockstep: bool
    participants: tuple[str, ...]
    lockstep_timeout_s: float
    startup_timeout_s: float
    stamped: bool
    cmd_vel_timeout_s: float
    tick_ns: int
    ticks_per_image: int
    episode_timeout_s: float
    policy_seed: int
    record_dir: str
    results_file: str
    requests_file: str

    @classmethod
    def declare(cls, node: Node) -> BridgeParameters:
        """Declare them all on a node; UserError names a value that makes no sense."""
        def declare(*args):
            return runtime.declare(node, *args)

        environment = _environment(declare)
        node.declare_parameter('episodes', '', runtime.ParameterDescriptor(
            description='ids, separated by blanks, to run one after the other; ~/reset begins '
            'anew with what it is then; empty: none'))
        mode = declare('mode', VELOCITY, 'velocity: a driver sends cmd_vel; discrete: the bridge '
                       'executes plans itself, as habitat actions')
        if mode not in MODES:
            raise UserError(f'parameter mode is {mode!r}; give one of {", ".join(MODES)}')
        lockstep = declare('lockstep', True, 'time waits for the participants; otherwise wall '
                           'time')
        stamped = declare('stamped', False, 'cmd_vel is TwistStamped (lockstep: always)')
        control_hz = declare('control_hz', 50.0, 'ticks a second of simulated time (mode '
                             'velocity)', 'Hz', 5.0, 500.0)
        camera_hz = declare('camera_hz', 10.0, 'images a second; divides control_hz; in mode '
                            'discrete also the most actions a second', 'Hz', 0.1, 500.0)
        tick_ns, ticks_per_image = _rates(control_hz if mode == VELOCITY else camera_hz, camera_hz)
        participants = _known(declare('participants', list(PARTICIPANTS), 'whom lockstep waits '
                                      'for; no driver takes part in mode discrete'))
        if mode == DISCRETE:
            participants = tuple(name for name in participants if name != 'driver')
        return cls(
            environment=environment, mode=mode, lockstep=lockstep, stamped=stamped or lockstep,
            tick_ns=tick_ns, ticks_per_image=ticks_per_image,
            participants=participants,
            lockstep_timeout_s=declare('lockstep_timeout_s', 60.0, 'wall time after which one who '
                                       'is late ends the episode', 's', 0.1, 3600.0),
            startup_timeout_s=declare('startup_timeout_s', 120.0, 'wall time for the participants '
                                      'to come up', 's', 0.1, 3600.0),
            cmd_vel_timeout_s=declare('cmd_vel_timeout_s', 0.5, 'an older velocity counts as zero',
                                      's', 0.02, 10.0),
            episode_timeout_s=declare('episode_timeout_s', 1200.0, 'simulated time an episode may '
                                      'take', 's', 1.0, 1e6),
            policy_seed=declare('policy_seed', -1, "of the run: the navigator's seed becomes one "
                                "made of it and the episode's id; -1: it stays as it is", '', -1),
            record_dir=declare('record_dir', '', 'folder for a record of every episode; empty: '
                               'none'),
            results_file=declare('results_file', '', 'file to which every result is appended as a '
                                 'line; empty: none'),
            requests_file=declare('requests_file', '', 'file to whose end anybody adds episodes '
                                  'to run after those of `episodes`, a line of JSON each: '
                                  '{"episode_id": "1"}, with "instruction" to say other words; '
                                  'empty: none'))


def _environment(declare) -> EnvironmentConfig:
    plain = EnvironmentConfig()
    camera = Camera(
        declare('width', 224, 'image width', 'pixels', 16, 4096),
        declare('height', 224, 'image height', 'pixels', 16, 4096),
        declare('hfov_deg', 90.0, 'horizontal field of view', 'deg', 10.0, 170.0),
        declare('camera_height_m', 1.25, 'camera above the floor', 'm', 0.05, 3.0))
    return EnvironmentConfig(
        dataset=declare('dataset', plain.dataset, 'folder that holds SPLIT/SPLIT.json.gz'),
        split=declare('split', plain.split, 'which episodes'),
        scenes_dir=declare('scenes_dir', plain.scenes_dir, 'what scene ids are relative to'),
        camera=camera,
        forward_m=declare('forward_m', 0.25, "forward step of the expert's and the driver's "
                          'actions', 'm', 0.01, 2.0),
        turn_deg=declare('turn_deg', 30.0, 'their turn', 'deg', 1.0, 90.0),
        allow_sliding=declare('allow_sliding', True, 'slide along walls'),
        max_steps=declare('max_steps', 500, 'actions an episode may take', '', 1, 100000),
        simulator=declare('simulator', 'auto', 'habitat-sim, embedded, or auto'),
        success_distance_m=declare('success_distance_m', 3.0, "radius of VLN-CE's success", 'm',
                                   0.05, 50.0),
        benchmark=declare('benchmark', plain.benchmark, 'whose episodes they are: apartments, '
                          'r2r or rxr'),
        roles=tuple(declare('roles', '', 'of RxR: guide, follower, separated by blanks').split()),
        languages=tuple(declare('languages', '', 'of RxR: en-US, ..., separated by blanks; '
                                'empty: all').split()),
        agent_radius_m=declare('agent_radius_m', 0.1, 'what must fit through a gap', 'm', 0.01,
                               1.0),
        agent_height_m=declare('agent_height_m', 1.5, 'what must fit below a table', 'm', 0.1,
                               3.0),
        follow_reference=declare('follow_reference', False, 'the expert walks the reference path '
                                 'instead of the shortest way'))


def _rates(control_hz: float, camera_hz: float) -> tuple[int, int]:
    """(nanoseconds of a tick, ticks from one image to the next)."""
    ticks = round(control_hz / camera_hz)
    if abs(ticks * camera_hz - control_hz) > 1e-6 * control_hz:
        raise UserError(f'parameter camera_hz is {camera_hz:g}; give one that divides control_hz '
                        f'{control_hz:g}')
    return round(1e9 / control_hz), ticks


def _known(participants: list[str] | None) -> tuple[str, ...]:
    participants = participants or []   # an empty list in a file arrives as no value at all
    unknown = set(participants) - set(PARTICIPANTS)
    if unknown:
        raise UserError(f'parameter participants names {", ".join(sorted(unknown))}; known are '
                        f'{", ".join(PARTICIPANTS)}')
    return tuple(participants)
