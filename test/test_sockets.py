"""Nodes that nobody can block share no memory with other processes."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from driver_process import DriverProcess, Robot
from spun_node import fresh_domain

from vlnr1_ros.nodes.sockets import (
    OLD_PROFILE,
    PROFILE,
    TRANSPORTS,
    changes,
    sockets_only,
)
from vlnr1_ros.resources import shipped

SHARED = ('/dev/shm/fastrtps_', '/dev/shm/fastdds_')
BARE = 'import rclpy; rclpy.init(); node = rclpy.create_node("bare"); ' \
       'print(open("/proc/self/maps").read())'
RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE'


def shares(maps):
    return any(name in maps for name in SHARED)


def told(environment):
    """(the profile's name, all other changes, the warning)."""
    changed, warning = sockets_only(environment)
    profile = changed.pop(PROFILE, None) or changed.pop(OLD_PROFILE, None)
    return profile and Path(profile).name, changed, warning


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


def in_profile(tmp_path, inside, version=(2, 14), **more):
    """(changes, warning) beside a profile of the user's."""
    path = tmp_path / 'mine.xml'
    path.write_text(f'<dds xmlns="http://www.eprosima.com"><!-- no SHM -->{inside}</dds>')
    return changes({PROFILE: str(path), OLD_PROFILE: str(path), **more}, version)


@pytest.mark.smoke
@pytest.mark.parametrize('version', [(2, 14), (3, 2)])
def test_the_users_own_profile_stays_and_is_not_given_memory(tmp_path, version):
    assert in_profile(tmp_path, '', version) == ({TRANSPORTS: 'UDPv4'}, '')
    own = '<useBuiltinTransports>false</useBuiltinTransports>'
    assert in_profile(tmp_path, f'{own}<type>UDPv4</type>', version) == ({}, '')
    assert in_profile(tmp_path, '<builtinTransports>UDPv4</builtinTransports>',
                      version) == ({}, '')
    for inside in (f'{own}<type>SHM</type>', '<builtinTransports>LARGE_DATA</builtinTransports>'):
        changed, warning = in_profile(tmp_path, inside, version)
        assert changed == {} and 'mine.xml' in warning
    changed, warning = in_profile(tmp_path, '', version, **{RANGE: 'LOCALHOST'})
    assert changed == {} and f'{RANGE}=LOCALHOST' in warning


@pytest.mark.smoke
def test_an_older_one_that_reads_no_variable_is_given_a_profile_or_warned_of(tmp_path):
    humble = (2, 6)
    assert changes({TRANSPORTS: 'UDPv4'}, humble)[0].keys() == {OLD_PROFILE}
    changed, warning = in_profile(tmp_path, '', humble)
    assert changed == {} and 'no transports in' in warning


@pytest.mark.smoke
@pytest.mark.parametrize('set_by_user, warned', [
    ({TRANSPORTS: 'UDPv4'}, False), ({TRANSPORTS: 'UDPv4?sockets_size=4MB'}, False),
    ({TRANSPORTS: 'LARGE_DATA'}, True),
    ({RANGE: 'LOCALHOST', 'ROS_STATIC_PEERS': '10.0.0.2'}, True)])
def test_other_settings_of_the_user_stay(set_by_user, warned):
    changed, warning = changes(set_by_user, (2, 14))
    assert changed == {} and bool(warning) == warned


@pytest.mark.smoke
def test_a_profile_without_transports_shares_no_memory_any_more(tmp_path):
    profile = tmp_path / 'mine.xml'
    profile.write_text('<?xml version="1.0"?><dds xmlns="http://www.eprosima.com"><profiles>'
                       '<participant profile_name="mine" is_default_profile="true"><rtps>'
                       '<name>mine</name></rtps></participant></profiles></dds>')
    mine = {**os.environ, PROFILE: str(profile), OLD_PROFILE: str(profile), RANGE: 'OFF'}
    mine.pop(TRANSPORTS, None)
    for changed, expected in (({}, True), (sockets_only(mine)[0], False)):
        done = subprocess.run([sys.executable, '-c', BARE], env={**mine, **changed},
                              capture_output=True, text=True, check=True)
        assert shares(done.stdout) == expected
