"""Answers decoded with as few forward passes as their choices need.

Between two choices the grammar leaves one continuation, which is fed in one pass. A draft, a
guess of how the answer begins, is fed along with the prompt: the same pass says at each of its
choices what the model would have chosen, and the answer follows the draft as far as both agree.
The answer is what decoding token by token gives, whatever the draft (speculative decoding:
Leviathan et al., arXiv 2211.17192, in the greedy case).

Of the drafts the first that begins as the answer does is taken: the rest of the last plan, or that
plan from its start, which is right when nothing was driven of it. Without any, and behind its end,
the guess is that the last action goes on: plans of nano then took 2.3 passes instead of 5.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.policy.grammar import Answer, AnswerGrammar
from vlnr1_ros.policy.prompt_rows import Piece, PromptRows


class Decoded(NamedTuple):
    """An answer's actions, and how many of its choices a draft had made already."""

    actions: list[Action]
    drafted: int


class Choice(NamedTuple):
    """A place where an answer may go on in several ways.

    at: index in the draft of the token that is chosen here. stop: the token that means stop.
    """

    at: int
    options: list[int]
    stop: int | None


def decode(
    rows: PromptRows, lm_head: torch.nn.Module, grammar: AnswerGrammar, stop_bias: float,
    prompts: dict[int, list[Piece]], drafts: dict[int, Sequence[list[Action]]] | None,
) -> dict[int, Decoded]:
    """Greedy answers to the `prompts` of some rows.

    drafts: for each row how its answer may begin, the likeliest first; None: guess nothing at all.
    """
    answers, fed, drafted, decoded = {}, {}, dict.fromkeys(prompts, 0), {}
    for row, prompt in prompts.items():
        answers[row] = grammar.begin()
        fed[row] = rows.cut_to(row, prompt)
        forced = answers[row].push_forced()
        if forced:
            fed[row].append(tuple(forced))
    while fed:
        guesses = {row: _guess(answers[row], drafts and _likely(answers[row].actions, drafts[row]))
                   for row in fed}
        scores = _scores(rows, lm_head, stop_bias, fed, guesses)
        fed = {}
        for row, (draft, choices) in guesses.items():
            answer = answers[row]
            agreed, token = _follow(draft, choices, scores[row])
            rows.drop(row, len(draft) - choices[agreed].at)
            drafted[row] += agreed
            for known in draft[:choices[agreed].at]:
                answer.push(known)
            answer.push(token)
            forced = answer.push_forced()
            if answer.complete:
                decoded[row] = Decoded(answer.actions, drafted[row])
            else:
                fed[row] = [(token, *forced)]
    return decoded


def _likely(actions: list[Action], drafts: Sequence[list[Action]]) -> list[Action]:
    """The first of the drafts that goes on from the actions, or just these."""
    for draft in drafts:
        if len(draft) > len(actions) and draft[:len(actions)] == actions:
            return draft
    return actions


def _guess(answer: Answer, actions: Sequence[Action] | None) -> tuple[list[int], list[Choice]]:
    """(draft: tokens to feed behind the answer, its choices: the last one is behind the draft).

    actions: how the whole answer may begin, the last of them repeated to its end.
    """
    grammar = answer.grammar
    ghost = grammar.begin(answer.tokens)
    if not actions:
        return [], [Choice(0, ghost.options(), ghost.stop_token())]
    begun, choices = len(ghost.tokens), []
    missing = grammar.horizon - len(actions)
    for token in grammar.tokens_of([*actions, *[actions[-1]] * missing])[begun:]:
        options = ghost.options()
        if len(options) > 1:
            choices.append(Choice(len(ghost.tokens) - begun, options, ghost.stop_token()))
        ghost.push(token)
    # behind the last choice there is nothing to learn
    return ghost.tokens[begun:begun + choices[-1].at], choices


def _scores(rows, lm_head, stop_bias, fed, guesses) -> dict[int, list[list[float]]]:
    """For every choice of every row the scores of its options, from one forward pass."""
    hidden = rows.feed({row: [*pieces, tuple(guesses[row][0])] if guesses[row][0] else pieces
                        for row, pieces in fed.items()})
    places = [(row, index, sum(map(len, fed[row])) - 1 + choice.at, choice)
              for index, row in enumerate(sorted(fed)) for choice in guesses[row][1]]
    chosen = hidden[[index for _, index, _, _ in places], [at for _, _, at, _ in places]]
    options = sorted({token for *_, choice in places for token in choice.options})
    # one copy from the device for all choices
    logits = lm_head(chosen)[:, options].float().tolist()
    scores: dict[int, list[list[float]]] = {row: [] for row in guesses}
    for (row, _, _, choice), values in zip(places, logits):
        value = dict(zip(options, values))
        scores[row].append([value[token] + (stop_bias if token == choice.stop else 0.0)
                            for token in choice.options])
    return scores


def _follow(draft, choices, scores) -> tuple[int, int]:
    """(choices in which the model agrees with the draft, the token it chooses at the next)."""
    for number, (choice, values) in enumerate(zip(choices, scores)):
        token = choice.options[max(range(len(values)), key=values.__getitem__)]
        if number == len(choices) - 1 or token != draft[choice.at]:
            break
    return number, token
