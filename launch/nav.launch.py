"""Navigator and driver on a robot.

    ros2 launch vlnr1_ros nav.launch.py policy:=/path/to/checkpoint image:=/camera/image_raw

It uses the domain and the network as they are set: this is the real robot.
"""
import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, GroupAction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node, PushRosNamespace, SetParameter
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription


def generate_launch_description():
    """Describe the launch."""
    config = os.path.join(get_package_share_directory('vlnr1_ros'), 'config')
    value = LaunchConfiguration
    arguments = [
        DeclareLaunchArgument('namespace', default_value='',
                              description='Namespace of both nodes and of all relative topics'),
        DeclareLaunchArgument('use_sim_time', default_value='false', choices=['true', 'false'],
                              description='Follow /clock instead of the system time'),
        # No default: models/nano knows generated apartments only, and this is a real robot.
        DeclareLaunchArgument('policy',
                              description='Checkpoint folder, or random, forward, stop'),
        DeclareLaunchArgument('navigator_params', default_value=f'{config}/navigator.yaml',
                              description='Parameter file of the navigator'),
        DeclareLaunchArgument('driver_params', default_value=f'{config}/driver.yaml',
                              description='Parameter file of the driver'),
        DeclareLaunchArgument('image', default_value='image_raw',
                              description='Topic of the camera images'),
        DeclareLaunchArgument('camera_info', default_value='camera_info',
                              description='Topic of the camera calibration'),
        DeclareLaunchArgument('odom', default_value='odom', description='Topic of the odometry'),
        DeclareLaunchArgument('cmd_vel', default_value='cmd_vel',
                              description='Topic of the velocity commands'),
        DeclareLaunchArgument('respawn', default_value='true', choices=['true', 'false'],
                              description='Start a node that died again; it waits for a person'),
        DeclareLaunchArgument('log_level', default_value='info',
                              choices=['debug', 'info', 'warn', 'error', 'fatal'],
                              description='Log level of both nodes'),
    ]
    common = {'package': 'vlnr1_ros', 'output': 'screen', 'respawn_delay': 2.0,
              'respawn': value('respawn'),
              'arguments': ['--ros-args', '--log-level', value('log_level')]}
    nodes = GroupAction([
        PushRosNamespace(value('namespace')),
        SetParameter('use_sim_time', ParameterValue(value('use_sim_time'), value_type=bool)),
        Node(executable='driver', name='driver', parameters=[value('driver_params')],
             remappings=[('odom', value('odom')), ('cmd_vel', value('cmd_vel'))], **common),
        Node(executable='navigator', name='navigator',
             parameters=[value('navigator_params'),
                         {'policy': ParameterValue(value('policy'), value_type=str)}],
             remappings=[('image_raw', value('image')),
                         ('image_raw/compressed', [value('image'), '/compressed']),
                         ('camera_info', value('camera_info')), ('odom', value('odom'))],
             **common),
    ])
    return LaunchDescription(
        arguments + [SetEnvironmentVariable('RCUTILS_LOGGING_BUFFERED_STREAM', '1'), nodes])
