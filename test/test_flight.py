"""The flight recorder without ROS: what it writes, when it stops, what a kill leaves."""
import os
import resource
import subprocess
import sys
import time

import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from vlnr1_ros.bags.flight import FlightRecorder, Limits
from vlnr1_ros.bags.read import Bag
from vlnr1_ros.bags.ring import Recorded, Ring
from vlnr1_ros.bags.write import PARTIAL, Folder
from vlnr1_ros.navigation.errors import UserError

STORE = get_typestore(Stores.ROS2_JAZZY)
S = 1_000_000_000
STRING = 'std_msgs/msg/String'


def text(topic, at_s, data):
    message = STORE.types[STRING](data)
    return Recorded(topic, STRING, round(at_s * S), bytes(STORE.serialize_cdr(message, STRING)))


def contents(path):
    """[(topic, seconds, text)] of a bag."""
    with AnyReader([path]) as reader:
        return [(connection.topic, stamp_ns / S, reader.deserialize(data, STRING).data)
                for connection, stamp_ns, data in reader.messages()]


class Flight(FlightRecorder):
    """Remembers what it said, and is told seconds."""

    def __init__(self, folder, **limits):
        self.said = []
        folder = Folder(folder)
        self.repaired = list(folder.repair_all())
        super().__init__(folder, Limits(**{'min_free_mb': 1, 'tail_s': 0.5, **limits}),
                         lambda what, trouble: self.said.append((what, trouble)), ('/state',))

    def at(self, seconds, data='x', topic='/t'):
        self.hear(text(topic, seconds, data))
        self.tick(seconds)

    def instruct(self, seconds, sentence):
        self.hear_instruction(round(seconds * S), sentence)
        self.at(seconds, sentence, '/instruction')

    def state(self, seconds, active, instruction='go'):
        self.at(seconds, f'{active}', '/state')
        self.hear_state(round(seconds * S), seconds, active, instruction)
        self.tick(seconds)


def bags(folder):
    return sorted(path for path in folder.glob('[!.]*'))


def test_the_ring_keeps_the_last_seconds_and_never_more_bytes():
    ring = Ring(10.0, 1000)
    for second in range(30):
        ring.add(Recorded('/t', STRING, second * S, bytes(10)))
    assert len(ring) == 11 and ring.length_s == 10.0 and ring.bytes == 110
    ring.add(Recorded('/t', STRING, 30 * S, bytes(995)))
    assert len(ring) == 1 and ring.bytes == 995
    ring.add(Recorded('/t', STRING, 5 * S, b''))   # the clock was started anew
    assert [message.stamp_ns for message in ring.take()] == [5 * S]
    assert len(ring) == 0 and ring.bytes == 0 and ring.length_s == 0.0


def test_a_run_is_recorded_from_its_first_sentence_to_a_while_after_its_end(tmp_path):
    flight = Flight(tmp_path)
    flight.at(0.0, 'idle', '/state')
    flight.at(1.0, 'before')
    flight.instruct(2.0, 'go')
    flight.at(2.5, 'heard')
    flight.instruct(3.0, ' go\n')   # repeated until the state shows it
    flight.state(3.5, True)
    assert flight.recording.startswith(f'{tmp_path}/run_')
    flight.at(4.0, 'driving')
    flight.state(5.0, False)
    flight.at(5.4, 'standing')
    flight.at(5.6, 'last')
    flight.at(9.0, 'after')
    assert flight.recording == '' and flight.recordings == 1
    path, = bags(tmp_path)
    assert contents(path) == [
        ('/instruction', 2.0, 'go'), ('/t', 2.5, 'heard'),
        ('/instruction', 3.0, ' go\n'), ('/state', 3.5, 'True'), ('/t', 4.0, 'driving'),
        ('/state', 5.0, 'False'), ('/t', 5.4, 'standing'), ('/t', 5.6, 'last')]
    assert (path / 'metadata.yaml').is_file()


def test_another_sentence_ends_a_run_and_begins_the_next(tmp_path):
    flight = Flight(tmp_path)
    flight.instruct(1.0, 'go')
    flight.state(1.1, True)
    flight.instruct(2.0, 'stop by the lamp')
    flight.state(2.1, True, 'stop by the lamp')
    flight.state(3.0, False)
    flight.instruct(3.1, 'go')   # within the tail: it is not the run's any more
    flight.close()
    first, second = map(contents, bags(tmp_path))
    assert first[0] == ('/instruction', 1.0, 'go')
    assert second[0] == ('/instruction', 2.0, 'stop by the lamp')
    assert [what for topic, _, what in second if topic == '/instruction'] == ['stop by the lamp']


def test_the_same_sentence_again_is_another_run(tmp_path):
    flight = Flight(tmp_path)
    for second in (1.0, 3.0):
        flight.instruct(second, 'go')
        flight.state(second + 0.1, True)
        flight.state(second + 0.5, False)
    flight.close()
    assert [contents(path)[0] for path in bags(tmp_path)] == [
        ('/instruction', 1.0, 'go'), ('/instruction', 3.0, 'go')]


def test_an_event_saves_the_ring_and_what_follows_it_unless_a_run_holds_it(tmp_path):
    flight = Flight(tmp_path, ring_s=5.0, aftermath_s=2.0)
    flight.at(0.0, 'idle', '/state')
    for second in range(10):
        flight.at(second)
    flight.event(9.0, 'emergency stop')
    flight.event(9.5, 'another')
    flight.at(10.0)
    assert bags(tmp_path) == []
    flight.at(11.0)
    path, = bags(tmp_path)
    assert contents(path)[0] == ('/state', 6.0, 'idle')
    assert [at_s for _, at_s, _ in contents(path)[1:]] == [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    assert len(flight.ring) == 0   # none of it is written twice
    flight.instruct(12.0, 'go')
    flight.state(12.1, True)
    flight.event(12.2, 'plan dropped')
    flight.at(20.0)
    flight.close()
    assert [path.name.partition('_')[0] for path in bags(tmp_path)] == ['ring', 'run']


def test_asked_for_by_hand(tmp_path):
    flight = Flight(tmp_path, runs=False)
    assert flight.save('~/save') == (False, 'nothing was heard yet')
    assert flight.record(False) == (False, 'nothing is recorded by hand now')
    flight.at(1.0, 'a')
    done, path = flight.save('~/save')
    assert done and contents(tmp_path / path) == [('/t', 1.0, 'a')]
    done, path = flight.record(True)
    assert done and flight.recording == path
    flight.instruct(2.0, 'go')
    flight.state(2.5, True)
    flight.state(3.0, False)
    assert flight.record(False) == (True, path)
    assert contents(tmp_path / path)[0] == ('/instruction', 2.0, 'go')
    flight.instruct(4.0, 'go')
    flight.state(4.5, True)
    assert flight.recording == ''


@pytest.mark.parametrize('limits, told', [
    ({'run_mb': 1}, 'reached 1 MB'), ({'budget_mb': 1}, 'budget_mb is 1: delete recordings'),
    ({'min_free_mb': 10**9}, 'min_free_mb is 1000000000: free some space')])
def test_a_limit_ends_recording_with_a_warning_and_nothing_else(tmp_path, limits, told):
    flight = Flight(tmp_path, **limits)
    flight.instruct(1.0, 'go')
    flight.state(1.1, True)
    for k in range(30):
        flight.at(2.0 + k, 'x' * 100_000)
    assert flight.recording == '' and told in flight.trouble
    assert [what for what, trouble in flight.said if trouble] == [flight.trouble]
    size = sum(path.stat().st_size for path in tmp_path.rglob('*.mcap'))
    assert size < 1_500_000
    for path in bags(tmp_path):   # what was written is whole
        assert len(contents(path)) > 5
    flight.at(40.0)
    assert len(flight.ring) > 1


def test_a_disk_that_fails_ends_the_recording_and_the_next_start_repairs_it(tmp_path):
    flight = Flight(tmp_path)
    flight.instruct(1.0, 'go')
    flight.state(1.1, True)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, limit[1]))
    try:
        for k in range(50):
            flight.at(2.0 + k, 'x' * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert flight.recording == '' and 'recording broke off: File too large' in flight.trouble
    assert bags(tmp_path) == []
    flight.close()
    again = Flight(tmp_path)
    path, = bags(tmp_path)
    assert [outcome.split()[0] for _, outcome in again.repaired] == ['repaired:']
    assert contents(path)[0] == ('/instruction', 1.0, 'go') and len(contents(path)) > 10
    again.instruct(100.0, 'go')
    again.state(100.1, True)
    again.close()
    assert len(bags(tmp_path)) == 2


KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from test_flight import *
flight = Flight(Path({folder!r}))
flight.instruct(1.0, 'go')
flight.state(1.1, True)
for k in range(30):
    flight.at(2.0 + k, str(k))
flight.hear(text('/t', 40.0, 'not flushed yet'))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize('torn_bytes', [0, 40, 2000])
def test_what_a_kill_leaves_is_repaired_up_to_the_last_flush(tmp_path, torn_bytes):
    whole = Flight(tmp_path)
    whole.instruct(1.0, 'before')
    whole.state(1.1, True, 'before')
    whole.close()
    before = contents(bags(tmp_path)[0])
    code = KILLED.format(here=os.path.dirname(__file__), folder=str(tmp_path))
    code = 'from pathlib import Path\n' + code
    assert subprocess.run([sys.executable, '-c', code]).returncode == -9
    file, = (tmp_path / PARTIAL).glob('*/*.mcap')
    if torn_bytes:   # a power cut may tear the last record
        os.truncate(file, file.stat().st_size - torn_bytes)
    with pytest.raises(UserError, match='start the recorder, which repairs it'):
        Bag(file).__enter__()
    # somebody was killed while he repaired it
    half = file.parent.with_name(file.parent.name + '_repaired')
    half.mkdir()
    (half / f'{half.name}.mcap').write_bytes(file.read_bytes()[:500])
    flight = Flight(tmp_path)
    first, second = bags(tmp_path)
    assert contents(first) == before   # what was finished is as it was
    assert second.name.endswith('_repaired')
    said = [what for topic, _, what in contents(second) if topic == '/t']
    assert said == [str(k) for k in range(len(said))]
    assert len(said) == 30 or torn_bytes > 10 and len(said) >= 5
    assert not any(path.is_dir() for path in (tmp_path / PARTIAL).iterdir())
    flight.close()


def test_what_holds_nothing_is_deleted_and_what_is_torn_differently_is_told(tmp_path):
    Folder(tmp_path).close()
    for name, content in (('a', b''), ('b', b'\x89MCAP0\r\n'), ('c', None), ('d', bytes(5000))):
        (tmp_path / PARTIAL / name).mkdir()
        if content is not None:
            (tmp_path / PARTIAL / name / f'{name}.mcap').write_bytes(content)
    flight = Flight(tmp_path)
    assert [outcome for _, outcome in flight.repaired] == [
        'cannot be repaired: it holds no message, so it is deleted'] * 4
    assert bags(tmp_path) == [] and len(list((tmp_path / PARTIAL).iterdir())) == 1


def test_one_recorder_a_folder(tmp_path):
    first = Flight(tmp_path)
    with pytest.raises(UserError, match='another recorder writes to'):
        Flight(tmp_path)
    first.close()
    Flight(tmp_path).close()


def test_two_bags_of_a_moment_have_two_names(tmp_path, monkeypatch):
    flight = Flight(tmp_path)
    monkeypatch.setattr(time, 'time', lambda: 1_700_000_000.25)
    for k in range(3):
        flight.at(k)
        assert flight.save('~/save')[0]
    names = [path.name for path in bags(tmp_path)]
    assert names[1:] == [f'{names[0]}_2', f'{names[0]}_3'] and names[0].endswith('_250')
