"""Navigator and driver on a robot.

    ros2 launch vlnr1_ros nav.launch.py model:=/path/to/checkpoint image:=/camera/image_raw

It uses the domain and the network as they are set: this is the real robot.
"""
from pathlib import Path
from urllib.parse import quote

import lifecycle_msgs.msg
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handler import EventHandler
from launch.events import matches_action
from launch.events.process import ProcessExited
from launch_ros.actions import LifecycleNode, Node
from launch_ros.events.lifecycle import ChangeState, StateTransition
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription


def generate_launch_description():
    """Describe the launch."""
    truth = {'choices': ['true', 'false']}
    arguments = [
        DeclareLaunchArgument('namespace', default_value='',
                              description='Namespace of both nodes and of all relative topics'),
        DeclareLaunchArgument('use_sim_time', default_value='false', **truth,
                              description='Follow /clock instead of the system time'),
        # No default: models/nano knows generated apartments only, and this is a real robot.
        DeclareLaunchArgument('model',
                              description='Checkpoint folder, or random, forward, stop; with a '
                              'server as backend the folder needs only what the card needs'),
        DeclareLaunchArgument('backend', default_value='local',
                              description='local: the model runs in the navigator; or the URL '
                              'of a server that runs it: http://HOST:PORT/v1'),
        DeclareLaunchArgument('params_file', default_value='',
                              description='Parameter file for navigator and driver, with the '
                              'sections of config/*.yaml; empty: their defaults'),
        DeclareLaunchArgument('obstacle_source', default_value='',
                              choices=['', 'none', 'scan', 'depth', 'both'],
                              description='What the driver sees obstacles with; empty: as '
                              'params_file says, and none without one'),
        DeclareLaunchArgument('image', default_value='image_raw',
                              description='Topic of the camera images; compressed ones are '
                              'looked for below it'),
        DeclareLaunchArgument('camera_info', default_value='camera_info',
                              description='Topic of the camera calibration'),
        DeclareLaunchArgument('odom', default_value='odom', description='Topic of the odometry'),
        DeclareLaunchArgument('cmd_vel', default_value='cmd_vel',
                              description='Topic of the velocity commands'),
        DeclareLaunchArgument('instruction', default_value='instruction',
                              description='Topic of the sentences to follow'),
        DeclareLaunchArgument('scan', default_value='scan', description='Topic of the laser scan'),
        DeclareLaunchArgument('depth', default_value='depth/image_raw',
                              description='Topic of the depth images; their camera_info is '
                              'looked for beside it'),
        DeclareLaunchArgument('emergency_stop', default_value='emergency_stop',
                              description='Topic of the emergency stop, a std_msgs/Bool'),
        DeclareLaunchArgument('autostart', default_value='true', **truth,
                              description='Configure and activate the navigator once, when it '
                              'starts for the first time; false: a lifecycle manager does it'),
        DeclareLaunchArgument('respawn', default_value='true', **truth,
                              description='Start a node that died again; the navigator then '
                              'stays unconfigured until somebody configures and activates it'),
        DeclareLaunchArgument('prefix', default_value='',
                              description='Put before the command of the driver, such as '
                              '"chrt -f 5" for real-time priority'),
        DeclareLaunchArgument('driver', default_value='true', **truth,
                              description='Start the driver; false where somebody else executes '
                              'the plans'),
        DeclareLaunchArgument('record', default_value='',
                              description='Folder for recordings of a flight recorder that '
                              'listens beside the nodes; empty: none'),
        DeclareLaunchArgument('rviz', default_value='false', **truth,
                              description='Open RViz with config/vlnr1.rviz on the same topics'),
        DeclareLaunchArgument('lockstep', default_value='false', **truth,
                              description='Wait for a simulator that waits for the nodes'),
        DeclareLaunchArgument('log_level', default_value='info',
                              choices=['debug', 'info', 'warn', 'error', 'fatal'],
                              description='Log level of both nodes'),
    ]
    return LaunchDescription([
        *arguments, SetEnvironmentVariable('RCUTILS_LOGGING_BUFFERED_STREAM', '1'),
        OpaqueFunction(function=nodes)])


def nodes(context):
    """Driver, navigator and what configures and activates it, and who records."""
    value = context.launch_configurations.__getitem__

    def text(name):
        return ParameterValue(value(name), value_type=str)

    if value('rviz') == 'true':
        look_for_rviz()
    given = [value('params_file')] if value('params_file') else []
    shared = {'use_sim_time': value('use_sim_time') == 'true',
              'lockstep': value('lockstep') == 'true'}
    common = {'package': 'vlnr1_ros', 'namespace': value('namespace'), 'output': 'screen',
              'respawn': value('respawn') == 'true', 'respawn_delay': 2.0,
              'arguments': ['--ros-args', '--log-level', value('log_level')]}
    driver = Node(
        executable='driver', name='driver', prefix=value('prefix'),
        parameters=[*given, shared, *([{'obstacle_source': text('obstacle_source')}]
                                      if value('obstacle_source') else [])],
        remappings=[('odom', value('odom')), ('cmd_vel', value('cmd_vel')),
                    ('emergency_stop', value('emergency_stop')),
                    ('scan', value('scan')), ('depth/image_raw', value('depth')),
                    ('depth/camera_info', beside(value('depth'), 'camera_info'))], **common)
    navigator = LifecycleNode(
        executable='navigator', name='navigator',
        parameters=[*given, shared, {'policy': ParameterValue(
            policy(value('model'), value('backend')), value_type=str)}],
        remappings=[('image_raw', value('image')),
                    ('image_raw/compressed', f'{value("image")}/compressed'),
                    ('camera_info', value('camera_info')), ('odom', value('odom')),
                    ('instruction', value('instruction'))], **common)
    # Nobody waits for the recorder; in a simulation that waits for the others it must not lose.
    recorder = Node(
        executable='recorder', name='recorder',
        parameters=[*given, {'use_sim_time': shared['use_sim_time'], 'folder': text('record')},
                    *([{'reliability': 'reliable'}] if shared['lockstep'] else [])],
        remappings=[(name, value(argument)) for name, argument in (
            ('image_raw', 'image'), ('camera_info', 'camera_info'), ('odom', 'odom'),
            ('cmd_vel', 'cmd_vel'), ('instruction', 'instruction'), ('scan', 'scan'),
            ('emergency_stop', 'emergency_stop'))] + [
            ('image_raw/compressed', f'{value("image")}/compressed')],
        # it finishes its file
        sigterm_timeout='20', **common)
    settings = Path(__file__).resolve().parents[1] / 'config/vlnr1.rviz'
    rviz = Node(
        package='rviz2', executable='rviz2', name='rviz', namespace=value('namespace'),
        arguments=['-d', str(settings)],
        parameters=[{'use_sim_time': shared['use_sim_time']}],
        remappings=[('odom', value('odom')), ('scan', value('scan'))])
    return [*([driver] if value('driver') == 'true' else []), navigator,
            *([recorder] if value('record') else []),
            *([rviz] if value('rviz') == 'true' else []),
            *(started(navigator) if value('autostart') == 'true' else [])]


def look_for_rviz():
    """Before anything is started: a launch that fails on its way leaves a robot half started."""
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError:
        raise RuntimeError('rviz:=true, but rviz2 is not installed: sudo apt install '
                           'ros-$ROS_DISTRO-rviz2, or leave rviz:= out') from None


def beside(topic, name):
    """The topic of that name in the same namespace as another."""
    return topic[:topic.rfind('/') + 1] + name


def policy(model, backend):
    """The navigator's parameter `policy` for a model and what runs it."""
    if backend == 'local':
        return model
    return f'{backend}{"&" if "?" in backend else "?"}card={quote(model)}'


def started(navigator):
    """Configure it, and activate it when that is done: once, and not after it died."""
    change = {name: EmitEvent(event=ChangeState(
        lifecycle_node_matcher=matches_action(navigator), transition_id=transition))
        for name, transition in (
            ('configure', lifecycle_msgs.msg.Transition.TRANSITION_CONFIGURE),
            ('activate', lifecycle_msgs.msg.Transition.TRANSITION_ACTIVATE))}

    def is_over(event):
        """Whether the first configure has ended, well or not, or the process has."""
        return getattr(event, 'action', None) is navigator and (
            isinstance(event, ProcessExited)
            or isinstance(event, StateTransition) and event.start_state == 'configuring')

    def activate(context):
        configured = getattr(context.locals.event, 'goal_state', '') == 'inactive'
        return [change['activate']] if configured else []

    return [RegisterEventHandler(EventHandler(matcher=is_over, handle_once=True,
                                              entities=[OpaqueFunction(function=activate)])),
            change['configure']]
