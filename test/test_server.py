"""The environment server: the same environment in another interpreter, and all that may befall it.

It runs under a Python 3.9 where `make test` found one, under ours otherwise.
"""
import contextlib
import dataclasses
import inspect
import io
import math
import os
import signal
import socket as sockets
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import psutil
import pytest

from sim_bridge import wire
from sim_bridge.client import (
    Connection,
    EnvironmentVector,
    RemoteEnvironment,
    ServerError,
    load_split,
    open_environment,
)
from sim_bridge.config import EnvironmentConfig
from sim_bridge.environment import Environment
from sim_bridge.server import config_from_dict
from sim_bridge.server_process import ServerProcess, archive
from vlnr1_ros.navigation.camera import Camera
from vlnr1_ros.navigation.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SMALL = Camera(96, 64, 79.0, 1.0)


@pytest.fixture(scope='module')
def settings(apartments):
    return apartments.config(camera=SMALL, depth=True, semantic=True, top_down_map=True)


@pytest.fixture(scope='module')
def local(settings):
    environment = Environment(settings)
    yield environment
    environment.close()


@pytest.fixture(scope='module')
def remote(settings, habitat_python):
    environment = open_environment(settings, habitat_python)
    yield environment
    environment.close()


@pytest.fixture
def bare(habitat_python, tmp_path):
    """A server without an environment, at an address that others know too."""
    process = ServerProcess(habitat_python, f'unix://{tmp_path}/s')
    yield process
    process.close()


def answers(connection):
    """The server is there and reads requests; no habitat-lab is imported for it."""
    config = dataclasses.asdict(EnvironmentConfig(dataset='/no/such/folder'))
    with pytest.raises(UserError, match='/no/such/folder.*does not exist'):
        connection.ask('load_episodes', config)
    return True


def same(one, other):
    for name, value in vars(one).items():
        theirs = getattr(other, name)
        if isinstance(value, np.ndarray):
            assert (value.dtype, value.shape) == (theirs.dtype, theirs.shape), name
            assert value.tobytes() == theirs.tobytes(), name
        else:
            assert value == theirs and type(value) is type(theirs), name


def test_server_runs_under_python_39(remote, habitat_python):
    if habitat_python == sys.executable:
        pytest.skip('needs a Python 3.9')
    assert '3.9' in os.path.basename(os.readlink(f'/proc/{remote.pid}/exe'))


def test_same_methods():
    def public(kind):
        return {name: [p.name for p in inspect.signature(value).parameters.values()]
                if inspect.isfunction(value) else None
                for name, value in vars(kind).items() if not name.startswith('_')}

    ours, theirs = public(Environment), public(RemoteEnvironment)
    del ours['pathfinder'], ours['episode_over']
    assert ours == {name: theirs[name] for name in ours}


def test_same_episodes(local, remote):
    assert len(local.episodes) == len(remote.episodes)
    for one, other in zip(local.episodes, remote.episodes):
        same(one, other)


def digits(numbers):
    """Another compiler rounds distances another way in the last digit."""
    return pytest.approx(numbers, rel=1e-12)


def test_same_actions_same_bytes(local, remote):
    episode_id = local.episodes[3].episode_id
    same(local.reset(episode_id), remote.reset(episode_id))
    same(local.episode, remote.episode)
    plan = local.expert_plan(12)
    assert plan == remote.expert_plan(12)
    for action in [2, *plan[:11]]:
        same(local.step(action), remote.step(action))
        assert local.episode_over == remote.episode_over
    for linear, angular in ((0.4, 0.3), (0.5, -1.0), (0.0, 0.0)):
        same(local.move(linear, angular, 0.31), remote.move(linear, angular, 0.31))
    assert local.nearest_candidate() == remote.nearest_candidate()
    assert local.distance_to_goal_m() == digits(remote.distance_to_goal_m())
    assert local.metrics() == digits(remote.metrics())
    assert local.top_down_map(100).tobytes() == remote.top_down_map(100).tobytes()
    same(local.step(0), remote.step(0))
    assert local.metrics() == digits(remote.metrics()) and remote.episode_over


def test_several_actions_in_one_question_are_the_same_one_by_one(local, remote):
    episode_id = local.episodes[2].episode_id
    local.reset(episode_id)
    plan = local.expert_plan(5)[:4] + [0, 2, 2]
    expected = [local.step(action) for action in plan[:5]]
    assert expected[-1].episode_over
    for environment in (local, remote):
        environment.reset(episode_id)
        seen = environment.steps(plan)
        assert len(seen) == 5 and environment.episode_over, 'nothing after a stop'
        for one, other in zip(expected, seen):
            same(one, other)
    remote.reset(episode_id)
    assert remote.steps([]) == [] and not remote.episode_over


def test_images_of_the_server_can_be_written_to(remote):
    seen = remote.reset(remote.episodes[0].episode_id)
    assert seen.rgb.nbytes > wire.SMALL_BYTES
    seen.rgb[0, 0] = 7


def test_user_errors_arrive_word_by_word(local, remote):
    for environment in (local, remote):
        environment.reset(environment.episodes[0].episode_id)
    for what in (lambda e: e.step(7), lambda e: e.move(math.nan, 0.0, 1.0),
                 lambda e: e.reset('no-such')):
        texts = []
        for environment in (local, remote):
            with pytest.raises(UserError) as raised:
                what(environment)
            texts.append(str(raised.value))
        assert texts[0] == texts[1]
    with pytest.raises(UserError, match=r"'tets'.*val_unseen.*vlnr1 worlds"):
        config = EnvironmentConfig(**{**vars(remote.config), 'split': 'tets'})
        open_environment(config, sys.executable)


def test_settings_pass_whole(settings):
    plain = msgpack.unpackb(msgpack.packb(dataclasses.asdict(settings)))
    assert config_from_dict(plain) == settings


def test_the_archive_holds_what_a_server_needs():
    names = zipfile.ZipFile(io.BytesIO(archive())).namelist()
    assert {'__main__.py', 'sim_bridge/server.py', 'sim_bridge/embedded/simulator.py',
            'vlnr1_ros/navigation/metrics.py'} <= set(names)
    assert not [name for name in names if name.startswith(
        ('sim_bridge/ros', 'vlnr1_ros/nodes', 'vlnr1_ros/policy', 'training'))
        or '__pycache__' in name]
    assert archive() == archive()


def test_nothing_of_ours_leaks_into_the_server(habitat_python, tmp_path, monkeypatch):
    (tmp_path / 'msgpack.py').write_text('raise ImportError("taken from PYTHONPATH")')
    for name in ('PYTHONPATH', 'LD_LIBRARY_PATH', 'AMENT_PREFIX_PATH',
                 '_ROS_WHEELS_BOOTSTRAP_COMPLETE'):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    process = ServerProcess(habitat_python)
    connection = Connection(process)
    assert answers(connection)
    assert str(tmp_path) not in Path(f'/proc/{process.pid}/environ').read_text()
    connection.close()


def test_hung_or_killed_it_is_started_again(settings, habitat_python, capfd):
    environment = RemoteEnvironment(settings, habitat_python, timeout_s=3.0)
    environment.set_render(False)
    episode_id = environment.episodes[5].episode_id
    first = environment.reset(episode_id)
    os.kill(environment.pid, signal.SIGSTOP)
    with pytest.raises(ServerError, match=r'did not answer within 3 s \(step\)'):
        environment.step(1)
    with pytest.raises(ServerError, match='did not answer'):
        environment.metrics()
    again = environment.reset(episode_id)
    same(first, again)
    assert again.rgb is None
    assert 'did not answer within 3 s' in capfd.readouterr().err
    os.kill(environment.pid, signal.SIGSTOP)
    environment.send_step(1)
    os.kill(environment.pid, signal.SIGKILL)
    with pytest.raises(ServerError, match=r'signal 9 \(step\)'):
        environment.receive()
    same(first, environment.reset(episode_id))
    environment.close()
    environment.close()
    assert not psutil.pid_exists(environment.pid)


def script(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_last_lines_are_reported(tmp_path, habitat_python, settings):
    broken = script(tmp_path / 'broken', '#!/bin/sh\necho "no such libGL" >&2\nexit 3\n')
    with pytest.raises(UserError, match='exited with code 3.*no such libGL.*habitat-lab'):
        load_split(settings, broken)
    # a wrapper, as conda has; what it starts may outlive it for a second
    wrapper = script(tmp_path / 'wrapper', f'#!/bin/sh\n"{habitat_python}" "$@"\ncode=$?\n'
                     'echo "all is lost" >&2\nexit $code\n')
    process = ServerProcess(wrapper)
    connection = Connection(process)
    assert answers(connection)
    started = psutil.Process(process.pid).children()[0]
    started.kill()
    connection.send('metrics')
    with pytest.raises(ServerError, match='exited with code 137.*all is lost'):
        connection.receive()


def test_missing_modules_are_named(settings, tmp_path):
    bare_venv = tmp_path / 'venv'
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', bare_venv], check=True)
    with pytest.raises(UserError, match="No module named '(numpy|msgpack)'"):
        load_split(settings, str(bare_venv / 'bin/python'))
    with pytest.raises(UserError, match="'/no/python' is no Python"):
        load_split(settings, '/no/python')


@contextlib.contextmanager
def stranger(address):
    """A connection that no client of ours has opened."""
    connection, place = wire.opened(address)
    with connection:
        connection.settimeout(60.0)
        connection.connect(place)
        yield connection


def header(version=wire.PROTOCOL, value_bytes=0, beside_bytes=0):
    return wire.HEADER.pack(wire.NAME, version, value_bytes, beside_bytes)


def message(packed, beside=b''):
    return header(wire.PROTOCOL, len(packed), len(beside)) + packed + beside


def refused_by(address, content):
    """Why the server ended the connection over which `content` came."""
    with stranger(address) as connection:
        with contextlib.suppress(BrokenPipeError):  # refused before it spoke
            connection.sendall(content)
        number, status, why = wire.receive(connection)
        assert (number, status) == (wire.NO_REQUEST, wire.DEFECT)
        with contextlib.suppress(ConnectionResetError):     # what it did not read is lost
            assert connection.recv(1) == b''
    return why


def listening(process):
    """The address of a server, as soon as it listens."""
    for _ in range(6000):
        try:
            with stranger(process.address):
                return process.address
        except OSError:
            time.sleep(0.01)
    raise TimeoutError


def test_garbage_harms_nobody(bare):
    beside = msgpack.packb([1, 'x', [msgpack.ExtType(2, msgpack.packb(['|u1', [9], 7]))]])
    address = listening(bare)
    for content in (b'GET / HTTP/1.0\r\nHost: somewhere\r\n\r\n', os.urandom(5000)):
        assert 'not a message' in refused_by(address, content)
    assert 'a message of' in refused_by(address, header(value_bytes=1 << 31, beside_bytes=1 << 60))
    for content in (os.urandom(500), b'\x91' * 5000, beside):
        assert 'garbled' in refused_by(address, message(content))
    for content in (msgpack.packb('text'), msgpack.packb(['1', 2, 3])):
        assert 'a request is' in refused_by(address, message(content))
    for unfinished in (b'\0', header(value_bytes=100) + b'\x91'):
        with stranger(address) as connection:
            connection.sendall(unfinished)
    connection = Connection(bare)
    assert answers(connection)


def test_a_silent_stranger_keeps_nobody_out(bare):
    with stranger(listening(bare)):
        assert answers(Connection(bare))


def test_only_one_client(habitat_python, tmp_path):
    process = ServerProcess(habitat_python, f'unix://{tmp_path}/s')
    connection = Connection(process)
    assert answers(connection)
    for _ in range(2):
        assert 'another client' in refused_by(process.address, b'')
    assert answers(connection)
    connection.close()


def test_a_client_of_another_version_is_refused_with_both(bare):
    why = refused_by(listening(bare), header(version=99))
    assert f'version 99 there, {wire.PROTOCOL} here' in why


@pytest.mark.parametrize('answer, told', [
    (header(version=99), f'version 99 there, {wire.PROTOCOL} here'),
    (b'hello' * 20, 'not a message'), (b'', 'exited with code 0')])
def test_a_server_that_makes_no_sense_is_ended(tmp_path, settings, answer, told):
    fake = script(tmp_path / 'python', f'#!{sys.executable}\nimport socket, sys\n'
                  's = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[3][len("unix://"):])\n'
                  f's.listen()\nc, _ = s.accept()\nc.recv(9)\nc.sendall({answer!r})\n')
    with pytest.raises(UserError, match=told):
        load_split(settings, fake)


def test_interrupted_in_the_middle_of_an_answer(settings, habitat_python):
    environment = RemoteEnvironment(settings, habitat_python)

    def interrupt(*_):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        os.kill(environment.pid, signal.SIGSTOP)
        environment.send_reset(environment.episodes[0].episode_id)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            environment.receive()
    finally:
        signal.signal(signal.SIGALRM, previous)
    with pytest.raises(ServerError, match=r'\(metrics\)'):
        environment.metrics()
    environment.reset(environment.episodes[0].episode_id)
    environment.close()


def test_only_this_machine_unless_told_otherwise(habitat_python):
    def answers_at(address, **more):
        connection = Connection(ServerProcess(habitat_python, address, **more))
        try:
            return answers(connection)
        finally:
            connection.close()

    with sockets.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    with pytest.raises(UserError, match='other machines.*--anywhere'):
        Connection(ServerProcess(habitat_python, f'tcp://0.0.0.0:{port}')).ask('metrics')
    assert answers_at(f'tcp://127.0.0.1:{port}')
    assert answers_at(f'tcp://0.0.0.0:{port}', anywhere=True)


def test_server_ends_with_a_killed_client(habitat_python):
    code = ('import sys, time\nfrom sim_bridge.server_process import ServerProcess\n'
            'print(ServerProcess(sys.argv[1]).pid, flush=True)\ntime.sleep(100)\n')
    killed = subprocess.Popen([sys.executable, '-c', code, habitat_python], cwd=ROOT,
                              stdout=subprocess.PIPE, text=True)
    server = psutil.Process(int(killed.stdout.readline()))
    killed.kill()
    killed.communicate()
    server.wait(20)


def test_environments_that_step_together(settings, habitat_python, local):
    vector = EnvironmentVector(settings, habitat_python, 2)
    ids = [local.episodes[1].episode_id, local.episodes[-1].episode_id]
    plans = [[1, 2, 1, 1], [3, 3, 1, 2]]
    seen = [vector.reset(ids), *(vector.step(list(actions)) for actions in zip(*plans))]
    for which, episode_id in enumerate(ids):
        expected = [local.reset(episode_id), *map(local.step, plans[which])]
        for one, other in zip(expected, seen):
            same(one, other[which])
    vector.close()
