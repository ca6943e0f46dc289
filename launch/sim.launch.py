"""Navigator, driver and simulated apartments in a closed loop, on this machine alone.

    ros2 launch vlnr1_ros sim.launch.py data:=data policy:=expert episodes:='1 2 3'

Discovery stays on loopback, in a domain and a namespace of its own, so that no robot on the
network ever hears it. To look at it from another terminal, set the same ROS_DOMAIN_ID there.
"""
import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    SetEnvironmentVariable,
    UnsetEnvironmentVariable,
)
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PythonExpression
from launch_ros.actions import Node, PushRosNamespace, SetParameter
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription


def generate_launch_description():
    """Describe the launch."""
    config = os.path.join(get_package_share_directory('vlnr1_ros'), 'config')
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
        DeclareLaunchArgument('policy', default_value='expert',
                              description='expert, random, forward, stop or a checkpoint folder'),
        DeclareLaunchArgument('lockstep', default_value='true', choices=['true', 'false'],
                              description='Time waits for the nodes; false: wall time'),
        DeclareLaunchArgument('mode', default_value='velocity', choices=['velocity', 'discrete'],
                              description='velocity: the driver drives; discrete: no driver, the '
                              'bridge executes plans as habitat actions'),
        DeclareLaunchArgument('record_dir', default_value='',
                              description='Folder for a record of every episode; empty: none'),
        DeclareLaunchArgument('navigator_params', default_value=f'{config}/navigator.yaml',
                              description='Parameter file of the navigator'),
        DeclareLaunchArgument('driver_params', default_value=f'{config}/driver.yaml',
                              description='Parameter file of the driver'),
        DeclareLaunchArgument('bridge_params', default_value=f'{config}/sim_bridge.yaml',
                              description='Parameter file of the bridge'),
        DeclareLaunchArgument('log_level', default_value='info',
                              choices=['debug', 'info', 'warn', 'error', 'fatal'],
                              description='Log level of the nodes'),
    ]
    lockstep = ParameterValue(value('lockstep'), value_type=bool)
    common = {'package': 'vlnr1_ros', 'output': 'screen',
              'arguments': ['--ros-args', '--log-level', value('log_level')]}

    def text(name):
        return ParameterValue(value(name), value_type=str)

    nodes = GroupAction([
        PushRosNamespace(value('namespace')),
        SetParameter('use_sim_time', ParameterValue(value('use_sim_time'), value_type=bool)),
        Node(executable='driver', name='driver',
             condition=IfCondition(PythonExpression(["'", value('mode'), "' == 'velocity'"])),
             parameters=[value('driver_params'), {'lockstep': lockstep}], **common),
        Node(executable='navigator', name='navigator',
             parameters=[value('navigator_params'),
                         {'lockstep': lockstep, 'policy': text('policy')}], **common),
        # The clock's own node must not wait for the clock.
        Node(executable='sim_bridge', name='sim_bridge',
             parameters=[value('bridge_params'),
                         {'lockstep': lockstep, 'use_sim_time': False, 'split': text('split'),
                          'episodes': text('episodes'), 'record_dir': text('record_dir'),
                          'mode': text('mode'),
                          'dataset': ParameterValue(
                              [value('data'), '/datasets/apartments/v1'], value_type=str),
                          'scenes_dir': ParameterValue(
                              [value('data'), '/scene_datasets'], value_type=str)}], **common),
    ])
    return LaunchDescription(arguments + [
        SetEnvironmentVariable('ROS_AUTOMATIC_DISCOVERY_RANGE', value('discovery_range')),
        # Humble knows only this one; newer ones say that it is deprecated.
        *([SetEnvironmentVariable('ROS_LOCALHOST_ONLY', '1')]
          if os.environ.get('ROS_DISTRO') == 'humble' else []),
        # A static peer or a discovery server would carry the traffic off the machine all the same.
        *map(UnsetEnvironmentVariable,
             ('ROS_STATIC_PEERS', 'ROS_DISCOVERY_SERVER', 'ROS_SUPER_CLIENT')),
        SetEnvironmentVariable('ROS_DOMAIN_ID', value('domain_id')),
        SetEnvironmentVariable('RCUTILS_LOGGING_BUFFERED_STREAM', '1'),
        nodes,
    ])
