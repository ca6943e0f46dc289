from itertools import product

import pytest
import torch
from tiny_checkpoints import CORPUS
from tokenizers import AddedToken

from training.tiny import train_tokenizer
from vlnr1_ros.navigation.actions import Action, ActionSet
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.policy.grammar import AnswerGrammar, StopBias

HORIZON = 3


def tokenizer_for(kind: str, action_set: ActionSet):
    corpus = CORPUS + [action_set.encode([1, 2, 3, 0, 1])] * 100
    tokenizer = train_tokenizer(corpus, action_set, phrase_tokens=kind == 'phrase')
    if kind == 'split':
        # ', A' is one token and ', D' two: stop is decided in two steps.
        tokenizer.add_tokens([AddedToken(', A', normalized=False)])
    return tokenizer


def legal_answers(action_set: ActionSet) -> list[str]:
    """Every answer in which stop is followed by stop alone."""
    return [
        action_set.encode(actions) for actions in product(Action, repeat=HORIZON)
        if all(b == Action.STOP for a, b in zip(actions, actions[1:]) if a == Action.STOP)
    ]


@pytest.mark.parametrize('turn_deg', [15.0, 30.0])
@pytest.mark.parametrize('kind', ['phrase', 'bpe', 'split'])
def test_grammar_generates_exactly_the_legal_answers(kind, turn_deg):
    action_set = ActionSet(turn_deg=turn_deg)
    tokenizer = tokenizer_for(kind, action_set)
    grammar = AnswerGrammar(tokenizer, action_set, HORIZON)
    whole = []

    def walk(answer):
        tokens = grammar.allowed(answer)
        if tokens == [tokenizer.eos_token_id]:
            whole.append(answer)
            return
        for token in tokens:
            walk(answer + [token])

    walk([])
    assert sorted(tokenizer.decode(answer) for answer in whole) == sorted(
        legal_answers(action_set)
    )
    for answer in whole:
        text = tokenizer.decode(answer)
        assert grammar.decode(answer) == action_set.decode(text)
        assert grammar.decode(answer + [tokenizer.eos_token_id]) == action_set.decode(text)
        assert answer == tokenizer(text)['input_ids']
    assert max(map(len, whole)) <= grammar.max_tokens
    if kind == 'phrase':
        assert {len(answer) for answer in whole} == {HORIZON}


@pytest.mark.parametrize('kind, decisions', [('phrase', 1), ('bpe', 1), ('split', 2)])
def test_stop_is_decided_once_per_action_and_never_after_a_stop(kind, decisions):
    action_set = ActionSet()
    tokenizer = tokenizer_for(kind, action_set)
    grammar = AnswerGrammar(tokenizer, action_set, HORIZON)
    answer = tokenizer(action_set.encode([Action.MOVE_FORWARD, Action.STOP, Action.STOP]))
    answer = answer['input_ids']
    first, second = len(grammar.first[0]), len(grammar.following[3])
    decided = [grammar.stop_token(answer[:k]) for k in range(len(answer) + 1)]
    assert decided[0] == grammar.first[3][0]
    assert [token is None for token in decided[1:first]] == [True] * (first - 1)
    assert [token for token in decided[first:first + second] if token is not None] == \
        [token for token in grammar.following[3] if token in decided[first:]]
    assert sum(token is not None for token in decided[first:first + second]) == decisions
    assert decided[first + second:] == [None] * (len(answer) + 1 - first - second)


def test_stop_bias_is_added_to_the_deciding_logit_alone():
    action_set = ActionSet()
    tokenizer = tokenizer_for('bpe', action_set)
    grammar = AnswerGrammar(tokenizer, action_set, HORIZON)
    prompt = [5, 6, 7]
    undecided = prompt + grammar.first[0]
    # Behind the comma the letter decides; one row is there, the other one token before it.
    ids = torch.tensor([undecided + grammar.following[0][:1], prompt[:1] + undecided])
    scores = torch.zeros(2, len(tokenizer))
    biased = StopBias(grammar, 1.5, len(prompt))(ids[:1], scores[:1])
    expected = torch.zeros(1, len(tokenizer))
    expected[0, grammar.following[3][1]] = 1.5
    assert torch.equal(biased, expected)
    assert torch.equal(StopBias(grammar, 1.5, len(prompt) + 1)(ids[1:], scores[1:]), scores[1:])
    assert not scores.any()


def test_answers_outside_the_grammar_are_refused():
    action_set = ActionSet()
    grammar = AnswerGrammar(tokenizer_for('phrase', action_set), action_set, HORIZON)
    forward, _, _, stop = (tokens[0] for tokens in grammar.first)
    more_forward, more_stop = grammar.following[0][0], grammar.following[3][0]
    with pytest.raises(UserError, match='holds 2 whole actions where 3'):
        grammar.decode([forward, more_forward])
    with pytest.raises(UserError, match='is no answer of 3 actions'):
        grammar.decode([forward, stop, more_stop])
    with pytest.raises(UserError, match='is no answer'):
        grammar.decode([stop, more_forward, more_forward])
    with pytest.raises(UserError, match='is no answer'):
        grammar.allowed([forward] + [more_forward] * 3)


def test_tokenizer_that_joins_phrases_is_refused():
    action_set = ActionSet()
    tokenizer = tokenizer_for('bpe', action_set)
    tokenizer.add_tokens([AddedToken('degrees, B', normalized=False)])
    with pytest.raises(UserError, match='splits .*degrees, B.* otherwise than its two phrases'):
        AnswerGrammar(tokenizer, action_set, HORIZON)


def test_tokenizer_of_another_turn_angle_is_refused():
    tokenizer = tokenizer_for('phrase', ActionSet(turn_deg=30))
    with pytest.raises(UserError, match="made for 'B. Turn left 30 degrees'.*15 degrees"):
        AnswerGrammar(tokenizer, ActionSet(turn_deg=15), HORIZON)
