"""The remote policy: against transformers' own server with models/nano, and against faults."""
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from served_model import (
    NANO,
    REPOSITORY,
    FaultyServer,
    ServedNano,
    cut_off,
    drip,
    free_port,
    send,
    silence,
    status,
)

from sim_bridge.environment import Environment, load_episodes
from training.episode import run_episode
from training.evaluate import evaluate
from training.evaluate_config import EvaluateConfig
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import History
from vlnr1_ros.policy.base import Unavailable
from vlnr1_ros.policy.load import load_policy
from vlnr1_ros.policy.remote import Server, answer_regex, stop_bias_of

FORWARD = ', '.join(['A. Move forward 25 cm'] * 6)
INSTRUCTION = 'go to the red chair'


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    server = ServedNano(tmp_path_factory.mktemp('served') / 'log')
    yield server
    server.close()


@pytest.fixture
def faulty():
    servers = []

    def start(*behaviours):
        servers.append(FaultyServer(*behaviours))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def history_of(card, count=5):
    history = History(card.frame_width, card.frame_height)
    random = np.random.default_rng(0)
    for _ in range(count):
        history.add(random.integers(0, 256, (card.frame_height, card.frame_width, 3), np.uint8))
    return history


def ready(url):
    """(policy with an instruction, a history)."""
    policy = load_policy(url)
    policy.reset(INSTRUCTION)
    return policy, history_of(policy.card)


# The real server

class Compared:
    """The local policy, which notes where a remote one would have planned otherwise."""

    def __init__(self, local, remote):
        self.local, self.remote, self.card = local, remote, local.card
        self.decisions, self.differences = 0, []

    def reset(self, instruction, seed=0):
        self.local.reset(instruction, seed)
        self.remote.reset(instruction, seed)

    def plan(self, history):
        plan, remote = self.local.plan(history), self.remote.plan(history)
        self.decisions += 1
        if plan != remote:
            self.differences.append((plan, remote))
        return plan


def test_without_loss_it_plans_as_the_local_one_on_real_episodes(served, apartments):
    both = Compared(load_policy(NANO, device='cpu'), load_policy(served.url + '&image=png'))
    environment = Environment(replace(apartments.config(), camera=both.card.camera, max_steps=30))
    ends = set()
    for episode in load_episodes(environment.config)[::9]:
        ends.add(run_episode(environment, episode.episode_id, both).actions[-1])
    assert both.decisions >= 15 and Action.STOP in ends
    assert both.differences == []


def test_the_server_is_killed_in_the_middle_of_an_answer_and_comes_back(served):
    policy, history = ready(served.url + '&image=png')
    before = policy.plan(history)
    served.signal(signal.SIGSTOP)  # the kernel still takes the question
    threading.Timer(0.5, served.signal, [signal.SIGKILL]).start()
    with pytest.raises(Unavailable, match='cannot be reached'):
        policy.plan(history)
    with pytest.raises(Unavailable, match='cannot be reached.*refused'):
        policy.plan(history)
    served.start()
    assert policy.plan(history) == before


def test_a_hung_server_is_given_up_at_the_deadline(served):
    policy, history = ready(served.url.replace('deadline_s=60', 'deadline_s=0.5'))
    served.signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match=r'within 0\.5 s'):
            policy.plan(history)
    finally:
        served.signal(signal.SIGCONT)


def test_the_robot_needs_neither_torch_nor_transformers(served):
    code = f"""
import sys
for name in ('torch', 'transformers'):
    sys.modules[name] = None
import numpy as np
from vlnr1_ros.navigation.memory import History
from vlnr1_ros.policy.load import load_policy
policy = load_policy({served.url!r})
policy.reset('go to the red chair')
history = History(policy.card.frame_width, policy.card.frame_height)
history.add(np.zeros((84, 84, 3), np.uint8))
print(len(policy.plan(history)))
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=REPOSITORY, capture_output=True,
                          text=True, timeout=60)
    assert done.stdout == '6\n', done.stderr


# What is asked

def test_the_question_is_that_of_the_card(faulty):
    server = faulty(FORWARD)
    policy, history = ready(server.url(image='png'))
    assert policy.plan(history) == [Action.MOVE_FORWARD] * 6
    asked = server.asked[0]
    count = len(history.sample(policy.card.sampler)[0])
    assert [block['type'] for block in asked['messages'][0]['content']] == \
        ['text'] + ['image_url'] * count
    assert asked['messages'][0]['content'][0]['text'] == INSTRUCTION
    assert asked['model'] == 'nano' and asked['temperature'] == 0
    assert re.fullmatch(asked['structured_outputs']['regex'], FORWARD)


@pytest.mark.parametrize('image, exact', [('png', True), ('jpeg', False)])
def test_frames_arrive_in_order_and_as_they_are(faulty, image, exact):
    import base64

    import cv2

    server = faulty(FORWARD)
    policy, history = ready(server.url(image=image, jpeg_quality=95))
    history = History(84, 84)
    for level in (0, 60, 120, 180):
        history.add(np.full((84, 84, 3), (level, 0, 255 - level), np.uint8))
    policy.plan(history)
    policy.plan(history)  # from what was encoded before
    for asked in server.asked:
        blocks = [b for b in asked['messages'][0]['content'] if b['type'] == 'image_url']
        urls = [block['image_url']['url'] for block in blocks]
        assert all(url.startswith(f'data:image/{image};base64,') for url in urls)
        seen = [cv2.imdecode(np.frombuffer(base64.b64decode(url.split(',')[1]), np.uint8), 1)
                [:, :, ::-1] for url in urls]
        for got, sent in zip(seen, history.sample(policy.card.sampler)[1], strict=True):
            off = np.abs(got.astype(int) - sent).max()
            assert off == 0 if exact else off < 6


def test_all_answers_match_the_regex_and_nothing_else():
    actions = ActionSet(0.125, 15)
    pattern = re.compile(answer_regex(actions, 3))
    for answer in itertools.product(Action, repeat=3):
        legal = all(b == Action.STOP for a, b in itertools.pairwise(answer) if a == Action.STOP)
        assert bool(pattern.fullmatch(actions.encode(answer))) == legal
    for text in ('', actions.encode([1, 1]), actions.encode([1] * 4), 'D. Stop, ',
                 actions.encode([1, 1, 1]).replace('.5', 'x5')):
        assert not pattern.fullmatch(text)


def test_the_stop_bias_is_on_the_tokens_that_the_local_policy_biases():
    local = load_policy(NANO, device='cpu')
    answers = [[], local.grammar.first[0]]
    expected = {str(local.grammar.stop_token(answer)): local.card.stop_bias for answer in answers}
    assert stop_bias_of(local.card, NANO) == expected and len(expected) == 2


def test_a_stop_bias_without_a_tokenizer_is_refused(tmp_path):
    card = NavigationCard.load(NANO)
    with pytest.raises(UserError, match='tokenizer.json'):
        stop_bias_of(card, tmp_path)
    assert stop_bias_of(replace(card, stop_bias=0.0), tmp_path) == {}


def test_a_server_that_cannot_constrain_is_asked_without(faulty):
    refusal = status(422, '{"detail": "Unexpected fields: structured_outputs"}')
    server = faulty(refusal, FORWARD)
    policy, history = ready(server.url())
    for _ in range(2):
        assert policy.plan(history) == [Action.MOVE_FORWARD] * 6
    assert ['structured_outputs' in asked for asked in server.asked] == [True, False, False]


def test_the_key_comes_from_the_environment(faulty, monkeypatch):
    server = faulty(FORWARD)
    policy, history = ready(server.url())
    policy.plan(history)
    monkeypatch.setenv('VLNR1_API_KEY', 'secret')
    policy.plan(history)
    assert server.keys == [None, 'Bearer secret']


# Faults

def test_an_answer_outside_the_grammar_is_asked_for_once_more(faulty):
    server = faulty('I think I should turn left.', FORWARD)
    policy, history = ready(server.url())
    assert policy.plan(history) == [Action.MOVE_FORWARD] * 6
    assert len(server.asked) == 2


@pytest.mark.parametrize('answer', [
    'I think I should turn left.', '', FORWARD + ', D. Stop', 'A. Move forward 25 cm',
    FORWARD.replace('25', '50'), 'D. Stop, ' + FORWARD[23:]])
def test_then_it_is_refused_never_guessed(faulty, answer):
    server = faulty(answer)
    policy, history = ready(server.url())
    with pytest.raises(UserError, match='outside the grammar twice') as caught:
        policy.plan(history)
    assert len(server.asked) == 2 and not isinstance(caught.value, Unavailable)


@pytest.mark.parametrize('text', ['<html>', '{}', '[]', '{"choices": []}', 'null',
                                  '{"choices": [{"message": {"content": null}}]}'])
def test_what_is_no_chat_completion_is_refused(faulty, text):
    policy, history = ready(faulty(status(200, text)).url())
    with pytest.raises(UserError, match='no chat completion') as caught:
        policy.plan(history)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('behaviour, message', [
    (status(500, 'Internal Server Error'), '500 Internal'),
    (status(503, '{"error": {"message": "busy"}}'), '503 busy'),
    (cut_off, 'cannot be reached'), (drip, r'within 0\.4 s'), (silence, r'within 0\.4 s')])
def test_a_server_in_trouble_is_unavailable_and_may_recover(faulty, behaviour, message):
    server = faulty(behaviour, FORWARD)
    policy, history = ready(server.url(deadline_s=0.4))
    with pytest.raises(Unavailable, match=message):
        policy.plan(history)
    assert policy.plan(history) == [Action.MOVE_FORWARD] * 6


@pytest.mark.parametrize('behaviour, message', [
    (status(400, '{"error": {"message": "too many images"}}'), '400 too many images'),
    (status(401, '{"error": "no key"}'), 'VLNR1_API_KEY'),
    (status(307, ''), 'refused the question: 307')])
def test_a_refused_question_says_why(faulty, behaviour, message):
    policy, history = ready(faulty(behaviour).url())
    with pytest.raises(UserError, match=message) as caught:
        policy.plan(history)
    assert not isinstance(caught.value, Unavailable)


def test_cancel_gives_up_the_question_and_tells_the_server(faulty):
    server = faulty(silence, FORWARD)
    policy, history = ready(server.url(deadline_s=60))
    policy.cancel()  # nothing to give up
    threading.Timer(0.3, policy.cancel).start()
    with pytest.raises(UserError, match='given up'):
        policy.plan(history)
    assert server.hung_up.wait(10)
    assert policy.plan(history) == [Action.MOVE_FORWARD] * 6


def test_a_late_answer_is_never_taken_for_the_next_one(faulty):
    def late(handler):
        time.sleep(0.6)
        send(handler, 200, '{"choices": [{"message": {"content": "D. Stop"}}]}')

    policy, history = ready(faulty(late, FORWARD).url(deadline_s=0.2))
    with pytest.raises(Unavailable):
        policy.plan(history)
    time.sleep(0.6)
    assert policy.plan(history) == [Action.MOVE_FORWARD] * 6


def test_evaluate_takes_a_url(faulty, apartments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    server = faulty('D. Stop' + ', D. Stop' * 5)
    settings, lines = evaluate(EvaluateConfig(
        policy=server.url(), split=apartments.split, episodes=1, tier=['room'], workers=1,
        data=str(apartments.data)))
    assert [line['actions'] for line in lines] == ['0']
    assert settings['checkpoint'] and (tmp_path / 'results/nano_remote_val_unseen.jsonl').exists()
    assert any('image_url' in block for block in server.asked[0]['messages'][0]['content'])


# Wrong use

@pytest.mark.parametrize('url, message', [
    ('http://gpu:8000/v1', 'names no card'),
    ('http://gpu:eight/v1?card=x', 'eight'),
    ('http:///v1?card=x', 'HOST'),
    ('http://me:secret@gpu/v1?card=x', 'VLNR1_API_KEY'),
    ('http://gpu/v1?card=x&api_key=1', "unknown setting 'api_key'"),
    ('http://gpu/v1?card=x&image=gif', 'image=png'),
    ('http://gpu/v1?card=x&jpeg_quality=0', 'from 1 to 100'),
    ('http://gpu/v1?card=x&jpeg_quality=high', 'high'),
    ('http://gpu/v1?card=x&deadline_s=nan', 'deadline_s is nan')])
def test_a_wrong_url_is_one_clear_line(url, message):
    with pytest.raises(UserError, match=message) as caught:
        Server.parse(url)
    assert 'secret' not in str(caught.value) and '\n' not in str(caught.value)


def test_where_nobody_listens_nothing_starts():
    with pytest.raises(UserError, match='cannot be reached'):
        load_policy(f'http://127.0.0.1:{free_port()}/v1?card={NANO}')


@pytest.mark.parametrize('words', ['go to <|image_pad|> now', ' '])
def test_bad_instructions_are_refused(faulty, words):
    policy = load_policy(faulty(FORWARD).url())
    with pytest.raises(UserError):
        policy.reset(words)
    with pytest.raises(UserError, match='call reset first'):
        policy.plan(history_of(policy.card))


def test_doctor_looks_at_a_server(faulty):
    server = faulty(FORWARD)
    environment = {**os.environ, 'PYTHONPATH': str(REPOSITORY)}
    for url, said, code in ((server.url(), 'server: http', 0),
                            (f'http://127.0.0.1:{free_port()}/v1?card={NANO}', 'refused', 1)):
        done = subprocess.run([sys.executable, '-m', 'vlnr1_ros', 'doctor', '--server', url],
                              env=environment, capture_output=True, text=True, timeout=60)
        assert said in done.stdout and done.returncode == code, done.stdout + done.stderr
