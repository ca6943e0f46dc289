"""Several episodes decided at once, and the plain way, through `vlnr1 evaluate`."""
import pytest

from training.batch_runner import BatchRunner, Seat
from training.evaluate import evaluate
from training.evaluate_config import EvaluateConfig, card_and_policy, environment_config
from training.nano import SHIPPED
from training.runner import Job
from vlnr1_ros.navigation.errors import UserError


def config(apartments, out, **changes):
    return EvaluateConfig(**{
        'policy': str(SHIPPED), 'data': str(apartments.data), 'workers': 1, 'camera': '84x84',
        'tier': ['room'], 'episodes': 5, 'max_steps': 24, 'out': str(out), **changes})


@pytest.fixture(scope='module')
def one_by_one(apartments, tmp_path_factory):
    out = tmp_path_factory.mktemp('results') / 'one.jsonl'
    _, lines = evaluate(config(apartments, out))
    return out, lines


def test_at_once_is_one_by_one(apartments, one_by_one, tmp_path):
    out, lines = one_by_one
    # more episodes than rows, so that some begin while others go on
    evaluate(config(apartments, tmp_path / 'batch.jsonl', batch=2))
    assert (tmp_path / 'batch.jsonl').read_bytes() == out.read_bytes()
    assert len(lines) == 5 and len({len(line['actions']) for line in lines}) > 1


def test_the_plain_way_does_the_same_and_is_said_in_the_settings(
        apartments, one_by_one, tmp_path):
    settings, lines = evaluate(config(apartments, tmp_path / 'plain.jsonl', plain=True))
    assert settings['plain'] is True
    assert lines == one_by_one[1]


def test_an_episode_that_fails_leaves_the_others_alone(apartments, one_by_one, tmp_path,
                                                       monkeypatch):
    settings = config(apartments, tmp_path / 'unused.jsonl')
    card, policy = card_and_policy(settings)
    job = Job(policy, card, environment_config(settings, card), False, 0, None, {}, batch=2)
    ids = [line['episode_id'] for line in one_by_one[1]]
    begin = Seat.begin

    def failing(seat, episode_id, *arguments):
        if episode_id == ids[1]:
            raise OSError('the scene is gone')
        return begin(seat, episode_id, *arguments)

    monkeypatch.setattr(Seat, 'begin', failing)
    lines = {line['episode_id']: line for line in BatchRunner(job)(tuple(ids))}
    assert lines.pop(ids[1])['error'] == 'OSError: the scene is gone'
    assert lines == {line['episode_id']: line for line in one_by_one[1]
                     if line['episode_id'] != ids[1]}


@pytest.mark.parametrize('changes, message', [
    ({'batch': 0}, 'batch is 0; give 1 or more'),
    ({'batch': 2, 'plain': True}, 'batch is 2; .* 1 with --plain'),
    ({'batch': 2, 'through_ros': True}, 'batch is 2; .* 1 with'),
    ({'plain': True, 'through_ros': True}, 'leave --through-ros out'),
    ({'dtype': 'int8'}, "dtype 'int8' is unknown; give one of float32, bfloat16"),
    ({'batch': 2, 'policy': 'random'}, 'only checkpoints decide several'),
])
def test_what_does_not_go_together_is_one_line(apartments, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        evaluate(config(apartments, tmp_path / 'out.jsonl', **changes))
