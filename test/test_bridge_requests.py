"""Episodes asked for by lines of a file."""
import pytest

from sim_bridge.ros.requests import Request, Requests
from vlnr1_ros.navigation.errors import UserError


def test_lines_are_taken_once_and_only_when_they_are_whole(tmp_path):
    path = tmp_path / 'requests.jsonl'
    requests = Requests(path)
    assert requests.next() is None, 'the file need not be there yet'
    with open(path, 'a') as file:
        file.write('{"episode_id": "1"}\n{"episode_id": "2", "instr')
        file.flush()
        assert requests.next() == Request('1')
        assert requests.next() is None
        file.write('uction": "Go on."}\n')
        file.flush()
        assert requests.next() == Request('2', 'Go on.')
        assert requests.next() is None


def test_no_file_never_has_any():
    assert Requests('').next() is None


@pytest.mark.parametrize('line', ['1', '{"episode": "1"}', 'not json'])
def test_what_is_no_request_is_shown(tmp_path, line):
    path = tmp_path / 'requests.jsonl'
    path.write_text(line + '\n')
    with pytest.raises(UserError, match='requests.jsonl has the line.*episode_id'):
        Requests(path).next()
