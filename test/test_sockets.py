"""Nodes that nobody can block share no memory with other processes."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from driver_process import DriverProcess, Robot
from spun_node import fresh_domain

from vlnr1_ros.nodes.sockets import OLD_PROFILE, PROFILE, sockets_only
from vlnr1_ros.resources import shipped

SHARED = ('/dev/shm/fastrtps_', '/dev/shm/fastdds_')
BARE = 'import rclpy; rclpy.init(); node = rclpy.create_node("bare"); ' \
       'print(open("/proc/self/maps").read())'
RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE'


def shares(maps):
    return any(name in maps for name in SHARED)


def told(environment):
    """(the profile's name, all other changes, why not)."""
    changes, why = sockets_only(environment)
    profile = changes.pop(PROFILE, None) or changes.pop(OLD_PROFILE, None)
    return profile and Path(profile).name, changes, why


@pytest.mark.smoke
def test_the_driver_shares_no_memory_where_others_do(tmp_path, monkeypatch):
    for name in (PROFILE, OLD_PROFILE):
        monkeypatch.delenv(name, raising=False)
    domain_id = fresh_domain()
    others = {**os.environ, RANGE: 'LOCALHOST', 'ROS_DOMAIN_ID': str(domain_id)}
    assert shares(subprocess.run([sys.executable, '-c', BARE], env=others, capture_output=True,
                                 text=True, check=True).stdout)
    process = DriverProcess(domain_id, {}, tmp_path, False)
    robot = Robot(domain_id)
    robot.wait_for_driver()
    maps = Path(f'/proc/{process.process.pid}/maps').read_text()
    robot.close()
    code, output = process.end()
    assert not shares(maps) and code == 0, output


@pytest.mark.smoke
def test_who_stays_on_this_machine_does_so_by_the_profile():
    assert told({}) == ('fastdds_sockets_anywhere.xml', {}, '')
    assert told({RANGE: 'SUBNET'}) == ('fastdds_sockets_anywhere.xml', {}, '')
    assert told({RANGE: 'LOCALHOST'}) == (
        'fastdds_sockets_here.xml', {RANGE: 'SYSTEM_DEFAULT'}, '')
    assert told({'ROS_LOCALHOST_ONLY': '1'}) == (
        'fastdds_sockets_here.xml', {'ROS_LOCALHOST_ONLY': '0'}, '')
    assert '127.0.0.1' in shipped('config/fastdds_sockets_here.xml').read_text('utf-8')


@pytest.mark.smoke
def test_a_child_is_told_the_same_again():
    first, _ = sockets_only({RANGE: 'LOCALHOST'})
    assert sockets_only(first) == ({key: value for key, value in first.items()
                                    if key != RANGE}, '')
    assert sockets_only({**first, RANGE: 'LOCALHOST'}) == (first, '')


@pytest.mark.smoke
def test_the_users_own_profile_stays_and_is_said():
    mine = {PROFILE: '/mine.xml', OLD_PROFILE: '/mine.xml'}
    profile, changes, why = told(mine)
    assert profile is None and changes == {}
    assert why.startswith('/mine.xml decides how Fast DDS sends')
