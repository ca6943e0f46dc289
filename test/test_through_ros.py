"""Evaluation through ROS: the lines of evaluation in process, whatever breaks on the way."""
import os
import signal

import pytest

from sim_bridge.ros.graph import Graph
from training import evaluate_config, results
from training.evaluate import evaluate
from training.evaluate_config import EvaluateConfig
from training.runner import Job, Runner
from training.through_ros import GraphRunner
from vlnr1_ros.navigation.errors import UserError


def config(apartments, out='unused', **changes):
    return EvaluateConfig(**{'data': str(apartments.data), 'workers': 1, 'out': str(out),
                             'through_ros': True, **changes})


def job(settings):
    card, name = evaluate_config.card_and_policy(settings)
    environment = evaluate_config.environment_config(settings, card)
    return Job(name, card, environment, settings.swap, settings.seed, None, {},
               mode=evaluate_config.ros_mode(settings), replan=settings.replan,
               decision_time_s=settings.decision_time, execute=settings.execute)


@pytest.fixture
def through_ros(monkeypatch):
    """A function from settings to a runner, which is ended after the test."""
    handler = signal.getsignal(signal.SIGTERM)
    runners = []

    def make(settings):
        runners.append(GraphRunner(job(settings)))
        return runners[-1]

    yield make
    for runner in runners:
        runner._end()
    signal.signal(signal.SIGTERM, handler)


def in_process(settings, ids):
    runner = Runner(job(settings))
    lines = [runner(episode_id) for episode_id in ids]
    runner._environment.close()
    return lines


def test_random_actions_end_in_the_same_lines_and_a_dead_node_is_named(apartments, through_ros,
                                                                        capfd):
    # Other words than the episode's, an end by max_steps or by stop, a seed of each episode's own.
    settings = config(apartments, policy='random', max_steps=24, seed=5, swap=True)
    ids = ['1', '2', '9', '27']
    expected = in_process(settings, ids)
    assert {line['actions'][-1] == '0' for line in expected} == {True, False}
    runner = through_ros(settings)
    assert [runner(episode_id) for episode_id in ids] == expected
    os.kill(runner._graph.pid('navigator'), signal.SIGKILL)
    with pytest.raises(Exception, match='navigator ended with code -9'):
        runner('2')
    assert 'navigator ended with code -9' in capfd.readouterr().err
    assert runner('2') == expected[1]


def test_a_checkpoint_sees_the_same_images(apartments, through_ros):
    # of a shape that the navigator of a robot would cut
    settings = config(apartments, policy='models/nano', max_steps=14, camera='64x96')
    expected = in_process(settings, ['1', '9'])
    runner = through_ros(settings)
    assert [runner(episode_id) for episode_id in ('1', '9')] == expected


def test_no_rule_of_a_robot_comes_between_policy_and_episode(apartments):
    graph = Graph('random', apartments.data, 'val_unseen', [])
    assert graph._parameters['navigator']['when_stuck'] == 'ignore'
    assert graph._parameters['navigator']['crop'] is False


def test_graphs_side_by_side_give_one_file(apartments, tmp_path):
    out = tmp_path / 'ros.jsonl'
    few = {'policy': 'stop', 'camera': '32x32', 'tier': ['room', 'door'], 'episodes': 1}
    # Who stops at once stands where it stood, whether a driver would have driven it or not.
    settings, lines = evaluate(config(apartments, out, workers=2, mode='velocity', **few))
    assert len(lines) == 2 and results.read(out) == (settings, lines)
    times = [{key: line.pop(key) for key in ('seconds', 'seconds_to_goal', 'decisions_hidden')}
             for line in lines]
    assert all(0.0 < time['seconds'] < 1.0 and time['decisions_hidden'] is None for time in times)
    assert lines == in_process(config(apartments, **few), [line['episode_id'] for line in lines])
    assert settings['through_ros'] is True and settings['mode'] == 'velocity'
    with pytest.raises(UserError, match='was made with through_ros True'):
        evaluate(config(apartments, out, through_ros=False, **few))


def test_decisions_hide_behind_motion(apartments, through_ros):
    settings = config(apartments, policy='expert', camera='32x32', mode='velocity',
                      replan='during', decision_time=0.5, execute=3)
    line = through_ros(settings)('1')
    assert line['success'] == 1.0 and line['seconds_to_goal'] == line['seconds']
    # each plan begins with the action in progress
    assert line['decisions'] > 4 and len(line['actions']) <= 2 * line['decisions'] + 1
    assert line['decisions_hidden'] >= 0.9


@pytest.mark.parametrize('changes, told', [
    ({'through_ros': False, 'mode': 'velocity'}, '--mode velocity.*--through-ros'),
    ({'imperfections': 1.0}, '--imperfections 1.*--mode velocity'),
    ({'through_ros': False, 'imperfections': 1.0}, '--through-ros --mode velocity'),
    ({'replan': 'during'}, '--replan during.*--mode velocity'),
    ({'through_ros': False, 'decision_time': 0.5}, '--decision-time.*--through-ros'),
    ({'mode': 'velocity', 'replan': 'never'}, "'never'.*after or during"),
    ({'mode': 'velocity', 'decision_time': -1.0}, 'decision_time is -1'),
    ({'through_ros': False, 'execute': 2}, '--execute 2.*--through-ros'),
    ({'execute': 0}, 'execute is 0'),
    ({'mode': 'flying'}, "'flying'.*discrete, velocity"),
    ({'policy': 'forward'}, 'forward.*without --through-ros'),
    ({'seed': -1}, 'seed is -1'),
    ({'ray': 'local'}, 'this machine only.*--ray'),
])
def test_what_cannot_be_is_one_line(apartments, tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        evaluate(config(apartments, tmp_path / 'x.jsonl', **{'policy': 'random', **changes}))
