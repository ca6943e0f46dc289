"""The bridge's parameters: declared, checked, and as values in the units it works with."""
from __future__ import annotations

from dataclasses import dataclass, replace

from rclpy.node import Node

from sim_bridge.config import MAX_DEPTH_M, EnvironmentConfig
from sim_bridge.ros.imperfections import Imperfections
from sim_bridge.ros.scan import DepthScan
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.nodes import runtime

PARTICIPANTS = ('driver', 'navigator')
RELIABILITIES = ('reliable', 'best_effort')
VELOCITY, DISCRETE = MODES = ('velocity', 'discrete')


@dataclass(frozen=True)
class BridgeParameters:
    """What is read once, at start; `episodes` may change and is asked of the node.

    stamped: cmd_vel is TwistStamped. tick_ns: simulated time of a tick, which in discrete mode is
    that of an action. ticks_per_image: a tick in so many has an image. `*_timeout_s` of lockstep
    and startup are wall time, the others simulated time. policy_seed: -1 leaves the navigator's
    alone. environment: its camera is where it really is; camera: where it is said to be. scan: how
    a LaserScan is made, None for none. seed: of the imperfections.
    """

    environment: EnvironmentConfig
    habitat_python: str | None
    camera: Camera
    depth: bool
    scan: DepthScan | None
    reliable_images: bool
    imperfections: Imperfections
    seed: int
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
        habitat_python = declare('habitat_python', '', 'interpreter that has habitat-sim; empty: '
                                 'this one') or None
        camera = environment.camera
        depth = declare('depth', False, 'publish depth/image_raw and depth/camera_info')
        scan = _scan(declare, camera)
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
        imperfections, seed = _imperfections(declare, mode)
        environment = replace(
            environment, depth=depth or scan is not None,
            camera=_lifted(camera, imperfections.camera_height_m),
            camera_pitch_deg=imperfections.camera_pitch_deg)
        return cls(
            environment=environment, habitat_python=habitat_python, camera=camera, depth=depth,
            scan=scan,
            reliable_images=_reliable_images(declare, lockstep), imperfections=imperfections,
            seed=seed, mode=mode, lockstep=lockstep, stamped=stamped or lockstep,
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


def _scan(declare, camera: Camera) -> DepthScan | None:
    wanted = declare('scan', False, 'publish scan, a LaserScan made from depth')
    low_m = declare('scan_min_height_m', 0.1, 'lowest thing above the floor that is in the scan',
                    'm', 0.0, 3.0)
    high_m = declare('scan_max_height_m', 1.3, 'highest thing', 'm', 0.0, 3.0)
    if low_m >= high_m:
        raise UserError(f'parameter scan_min_height_m is {low_m:g}; give less than '
                        f'scan_max_height_m {high_m:g}')
    return DepthScan(camera, low_m, high_m, MAX_DEPTH_M) if wanted else None


def declare_image_reliability(declare) -> bool:
    """Whether images are reliable; `declare` is runtime's for a node."""
    reliability = declare('image_reliability', 'reliable',
                          'QoS of images: reliable, or best_effort as most cameras have it')
    if reliability not in RELIABILITIES:
        raise UserError(f'parameter image_reliability is {reliability!r}; give one of '
                        f'{", ".join(RELIABILITIES)}')
    return reliability == 'reliable'


def _reliable_images(declare, lockstep: bool) -> bool:
    reliable = declare_image_reliability(declare)
    if lockstep and not reliable:
        raise UserError('parameter image_reliability is best_effort; lockstep waits for every '
                        'image, so leave it at reliable or set lockstep to false')
    return reliable


def _imperfections(declare, mode: str) -> tuple[Imperfections, int]:
    """(what the base does wrong, seed of it)."""
    seed = declare('imperfections.seed', 0, 'the same seed makes the same errors', '', 0, 2**31)
    strength = declare('imperfections.strength', 0.0, "so many times a small robot's typical "
                       'errors are added to those below', '', 0.0, 10.0)
    own = Imperfections(
        odom_noise_m=declare('imperfections.odom_noise_m', 0.0, 'standard deviation of the random '
                             'walk of odometry after a metre or a radian', 'm', 0.0, 1.0),
        odom_noise_deg=declare('imperfections.odom_noise_deg', 0.0, 'the same of its heading',
                               'deg', 0.0, 45.0),
        odom_drift=declare('imperfections.odom_drift', 0.0, 'standard deviation of the share by '
                           'which distances and turns are told too long, drawn once an episode',
                           '', 0.0, 0.3),
        odom_drift_deg=declare('imperfections.odom_drift_deg', 0.0, 'standard deviation of the '
                               'turn told with every metre, drawn once an episode', 'deg', 0.0,
                               45.0),
        wheel_slip=declare('imperfections.wheel_slip', 0.0, 'mean share of the motion that the '
                           'wheels make and the base does not', '', 0.0, 0.9),
        actuation_delay_s=declare('imperfections.actuation_delay_s', 0.0, 'from cmd_vel to the '
                                  'wheels', 's', 0.0, 2.0),
        image_latency_s=declare('imperfections.image_latency_s', 0.0, 'from the stamp of an image '
                                'to its publication', 's', 0.0, 5.0),
        image_drop=declare('imperfections.image_drop', 0.0, 'share of images that never come', '',
                           0.0, 0.9),
        camera_height_m=declare('imperfections.camera_height_m', 0.0, 'the camera is so much '
                                'higher than is said', 'm', -1.0, 1.0),
        camera_pitch_deg=declare('imperfections.camera_pitch_deg', 0.0, 'and looks up by so much',
                                 'deg', -45.0, 45.0))
    imperfections = own.plus(strength)
    if mode == DISCRETE and imperfections.of_motion:
        raise UserError('mode discrete has no wheels: leave imperfections.strength, those of '
                        'odometry, wheel_slip and actuation_delay_s at 0, or take mode velocity')
    return imperfections, seed


def _lifted(camera: Camera, by_m: float) -> Camera:
    if camera.height_m + by_m < 0:
        raise UserError(f'parameter imperfections.camera_height_m puts a camera of height '
                        f'{camera.height_m:g} m {-by_m:g} m lower, below the floor')
    return replace(camera, height_m=camera.height_m + by_m)


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
