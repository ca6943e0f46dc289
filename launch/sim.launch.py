"""Navigator, driver and simulated apartments in a closed loop, on this machine alone.

    ros2 launch vlnr1_ros sim.launch.py data:=data model:=expert episodes:='1 2 3'

It is nav.launch.py, whose arguments it takes as well, and the bridge. Discovery stays on loopback,
in a domain and a namespace of its own, so that no robot on the network ever hears it. To look at
it from another terminal, set the same ROS_DOMAIN_ID there.
"""
import os
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetEnvironmentVariable,
    UnsetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription


def generate_launch_description():
    """Describe the launch."""
    value = LaunchConfiguration
    arguments = [
        DeclareLaunchArgument('namespace', default_value=f'vlnr1_sim_{os.getpid()}',
                              description='Namespace of the nodes and of all relative topics'),
        DeclareLaunchArgument('domain_id', default_value=str(1 + os.getpid() % 100),
                              description='ROS domain, so that nobody else is met'),
        DeclareLaunchArgument('discovery_range', default_value='LOCALHOST',
                              choices=['LOCALHOST', 'OFF', 'SUBNET', 'SYSTEM_DEFAULT'],
                              description='How far discovery reaches'),
        DeclareLaunchArgument('use_sim_time', default_value='true', choices=['true', 'false'],
                              description='Follow /clock of the simulation'),
        DeclareLaunchArgument('data', default_value=os.path.join(os.getcwd(), 'data'),
                              description='Folder that `vlnr1 worlds` wrote'),
        DeclareLaunchArgument('split', default_value='val_unseen',
                              description='Which episodes of the data'),
        DeclareLaunchArgument('episodes', default_value='1',
                              description='Episode ids to run, separated by blanks'),
        DeclareLaunchArgument('model', default_value='expert',
                              description='expert, random, forward, stop or a checkpoint folder'),
        DeclareLaunchArgument('lockstep', default_value='true', choices=['true', 'false'],
                              description='Time waits for the nodes; false: wall time'),
        DeclareLaunchArgument('mode', default_value='velocity', choices=['velocity', 'discrete'],
                              description='velocity: the driver drives; discrete: no driver, the '
                              'bridge executes plans as habitat actions'),
        DeclareLaunchArgument('record_dir', default_value='',
                              description='Folder for a record of every episode; empty: none'),
        DeclareLaunchArgument('params_file', default_value='',
                              description='Parameter file for the nodes, with the sections of '
                              'config/*.yaml; empty: their defaults'),
        DeclareLaunchArgument('respawn', default_value='false', choices=['true', 'false'],
                              description='Start a node that died again'),
        DeclareLaunchArgument('log_level', default_value='info',
                              choices=['debug', 'info', 'warn', 'error', 'fatal'],
                              description='Log level of the nodes'),
    ]
    robot = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).with_name('nav.launch.py'))),
        launch_arguments={
            'driver': PythonExpression(["'true' if '", value('mode'),
                                        "' == 'velocity' else 'false'"]),
            'namespace': value('namespace'), 'use_sim_time': value('use_sim_time'),
            'model': value('model'), 'lockstep': value('lockstep'),
            'params_file': value('params_file'), 'respawn': value('respawn'),
            'log_level': value('log_level')}.items())
    return LaunchDescription(arguments + [
        SetEnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', value('discovery_range')),
        # Humble knows only this one; newer ones say that it is deprecated.
        *([SetEnvironmentVariable('ROS_LOCALHOST_ONLY', '1')]
          if os.environ.get('ROS_DISTRO') == 'humble' else []),
        # A peer, a discovery server or a profile would carry the traffic off the machine all the
        # same.
        *map(UnsetEnvironmentVariable,
             ('ROS_STATIC_PEERS', 'ROS_DISCOVERY_SERVER', 'ROS_SUPER_CLIENT',
              'FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE',
              'FASTDDS_BUILTIN_TRANSPORTS')),
        SetEnvironmentVariable('ROS_DOMAIN_ID', value('domain_id')),
        robot,
        OpaqueFunction(function=bridge),
    ])


def bridge(context):
    """The simulated robot."""
    value = context.launch_configurations.__getitem__

    def text(name):
        return ParameterValue(value(name), value_type=str)

    # nav.launch.py, which is included before, has declared the topics
    remappings = [(topic, value(argument)) for topic, argument in (
        ('image_raw', 'image'), ('camera_info', 'camera_info'), ('odom', 'odom'),
        ('cmd_vel', 'cmd_vel'), ('instruction', 'instruction'), ('scan', 'scan'),
        ('depth/image_raw', 'depth'))]
    depth_info = value('depth')[:value('depth').rfind('/') + 1] + 'camera_info'
    data = value('data')
    return [Node(
        package='vlnr1_ros', executable='sim_bridge', name='sim_bridge',
        namespace=value('namespace'), output='screen', respawn=value('respawn') == 'true',
        arguments=['--ros-args', '--log-level', value('log_level')],
        remappings=[*remappings, ('depth/camera_info', depth_info)],
        parameters=[
            *([value('params_file')] if value('params_file') else []),
            # The clock's own node must not wait for the clock.
            {'use_sim_time': False, 'lockstep': value('lockstep') == 'true',
             'split': text('split'), 'episodes': text('episodes'), 'mode': text('mode'),
             'record_dir': text('record_dir'),
             'dataset': ParameterValue(f'{data}/datasets/apartments/v1', value_type=str),
             'scenes_dir': ParameterValue(f'{data}/scene_datasets', value_type=str)}])]
