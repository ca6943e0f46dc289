"""The same results from Ray's workers as from local ones, whatever dies on the way."""
import contextlib
import filecmp
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
import test_workers

from training import ray_workers
from training.evaluate import EvaluateConfig, evaluate
from vlnr1_ros.__main__ import call


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch):
    """Every cluster started here ends, with its folder."""
    # not tmp_path: the paths of Ray's sockets may have 107 characters
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, 'tempdir', folder)
        yield
        # Python's own tracker of spawned processes stays for good
        left = [' '.join(child.cmdline()) for child in children()]
        assert [command for command in left if 'resource_tracker' not in command] == []
        assert list(Path(folder).iterdir()) == []


def children():
    return psutil.Process().children(recursive=True)


def is_worker(process):
    try:
        return process.name().startswith('ray::Host')
    except psutil.NoSuchProcess:
        return False


def test_a_worker_killed_on_the_way_changes_no_byte(apartments, tmp_path, capfd):
    def settings(name, **changes):
        return EvaluateConfig('random', data=str(apartments.data), camera='48x48',
                              out=str(tmp_path / name), **changes)

    def kill_a_worker():
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and not killed:
            finished = out.read_bytes().count(b'\n') - 1 if out.exists() else 0
            if finished >= 2:
                next(filter(is_worker, children())).send_signal(signal.SIGKILL)
                killed.append(finished)
            time.sleep(0.005)

    out, killed = tmp_path / 'ray.jsonl', []
    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    _, lines = evaluate(settings('ray.jsonl', ray='local', workers=2))
    thread.join()
    evaluate(settings('local.jsonl', workers=1))
    assert len(lines) == 28 and 2 <= killed[0] < 27, 'killed in the middle'
    assert out.read_bytes() == (tmp_path / 'local.jsonl').read_bytes()
    assert capfd.readouterr().out == '', 'stdout is for the tables'
    # what is there already asks for no cluster
    evaluate(settings('ray.jsonl', ray='127.0.0.1:1'))


def test_samples_are_the_same_files(apartments, tmp_path):
    def make(name, *more):
        flags = ['--data', str(apartments.data), '--split', apartments.split, '--episodes', '4',
                 '--out', str(tmp_path / name), '--camera', '64x64', '--noise', '0.1']
        assert call('ego', [*flags, *more]) == 0

    def files(name):
        root = tmp_path / name
        return sorted(str(p.relative_to(root)) for p in root.rglob('*') if p.is_file())

    make('ray', '--ray', 'local', '--workers', '2')
    make('here')
    assert files('ray') == files('here') and len(files('ray')) > 4 * 5
    _, differing, failed = filecmp.cmpfiles(tmp_path / 'ray', tmp_path / 'here', files('ray'),
                                            shallow=False)
    assert differing == failed == []


def listening_at():
    for process in [psutil.Process(), *children()]:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield from (c.laddr.ip.rpartition(':')[2] for c in process.net_connections('tcp')
                        if c.status == psutil.CONN_LISTEN)


def test_outcomes_are_those_of_local_workers_and_sockets_are_on_loopback(tmp_path):
    import ray

    ray.cloudpickle.register_pickle_by_value(test_workers)
    trouble = dict(dies_at=(2,), dies_once_at=(5,), fails_at=(6,))
    outcomes = ray_workers.run_tasks([[1, 2, 3], [4, 5, 6], [7]], test_workers.Squares,
                                     (tmp_path, *trouble.values()), 2, 'local')
    first = next(outcomes)
    assert set(listening_at()) == {'127.0.0.1'}
    outcomes = {o.task: o for o in [first, *outcomes]}
    assert {task: o.result for task, o in outcomes.items() if o.error is None} == {
        1: 1, 3: 9, 4: 16, 5: 25, 7: 49}
    assert 'worker died' in outcomes[2].error and 'no square of 6' in outcomes[6].error
    tries = {int(p.name): p.stat().st_size for p in tmp_path.iterdir()}
    assert tries == {1: 1, 2: 2, 3: 1, 4: 1, 5: 2, 6: 2, 7: 1}


@pytest.mark.parametrize('job, code, told', [
    (pickle.dumps((test_workers.no_start, ('no such model',))), None, 'no such model'),
    (b'cno_such_package\nStart\n.', None, 'no_such_package'),
    (b'', 'the digest of another commit', 'other code')], ids=['policy', 'package', 'code'])
def test_a_machine_that_cannot_start_is_named(job, code, told):
    kind, text = ray_workers.Host().begin(job, code or ray_workers.code_sha256())
    assert kind == 'cannot start' and socket.gethostname() in text and told in text


class TestNoCluster:
    """One clear line, soon."""

    @pytest.fixture
    def line(self, apartments, tmp_path, capsys):
        def of(address):
            began = time.monotonic()
            arguments = ['--data', str(apartments.data), '--split', apartments.split, '--out',
                         str(tmp_path / 'ego'), '--ray', address]
            assert call('ego', arguments) == 2
            assert time.monotonic() - began < 60
            return [line for line in capsys.readouterr().err.splitlines() if 'error:' in line][-1]
        return of

    def test_no_ray(self, line, monkeypatch):
        monkeypatch.setitem(sys.modules, 'ray', None)
        assert "pip install 'vlnr1_ros[ray]'" in line('local')

    @pytest.mark.parametrize('address, told', [
        ('127.0.0.1:1', 'Connection refused'), ('ray://127.0.0.1:1', 'Connection refused'),
        ('nowhere.invalid:6379', 'nowhere.invalid'), ('somewhere', 'give auto, local, HOST:PORT'),
        ('host:70000000', 'host:70000000')])
    def test_unreachable(self, line, address, told):
        assert told in line(address)

    def test_a_port_of_something_else(self, line, monkeypatch):
        monkeypatch.setattr(ray_workers, 'CONNECT_TIMEOUT_S', 2.0)
        with socket.create_server(('127.0.0.1', 0)) as server:
            port = server.getsockname()[1]
            assert 'no answer within 2 s' in line(f'127.0.0.1:{port}')
