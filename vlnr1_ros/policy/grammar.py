"""The grammar of an answer, token by token: nothing but action phrases can be decoded.

An answer is n action phrases joined by ', '. At every step of decoding the grammar names the
tokens that may follow, so that no text outside it ever arises and nothing has to be guessed from
a malformed one. Once stop is chosen, the rest of the answer is stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from transformers import LogitsProcessor

from vlnr1_ros.navigation.actions import OPTION_ORDER, SEPARATOR, Action, ActionSet
from vlnr1_ros.navigation.errors import UserError


class AnswerGrammar:
    """Which tokens may continue an answer of `horizon` actions, for any tokenizer.

    Raises UserError if the tokenizer splits a joined answer otherwise than its phrases one by
    one (no grammar over phrases exists then), or if it has tokens for the phrases of another
    action set.

    first: tokens of each action's phrase where the answer begins, in letter order.
    following: the same with the separator before the phrase, where the answer continues.
    end: the token that closes the answer.
    max_tokens: length of the longest answer, without the end.
    """

    def __init__(self, tokenizer, action_set: ActionSet, horizon: int):
        self.tokenizer = tokenizer
        self.action_set = action_set
        self.horizon = horizon
        self.end = tokenizer.eos_token_id
        self._check_phrase_tokens()
        phrases = action_set.phrases
        self.first = [self._tokens(phrase) for phrase in phrases]
        self.following = [self._tokens(SEPARATOR + phrase) for phrase in phrases]
        for i, j in product(range(len(phrases)), repeat=2):
            joined = phrases[i] + SEPARATOR + phrases[j]
            if self._tokens(joined) != self.first[i] + self.following[j]:
                raise UserError(
                    f'the tokenizer splits {joined!r} otherwise than its two phrases, so the '
                    'answer cannot be decoded phrase by phrase; use another tokenizer'
                )
        longest = max(len(tokens) for tokens in self.following)
        self.max_tokens = max(map(len, self.first)) + (horizon - 1) * longest

    def allowed(self, answer: Sequence[int]) -> list[int]:
        """Tokens that may follow the `answer` decoded so far, ascending; after n phrases the end.

        Raises UserError if `answer` itself is outside the grammar.
        """
        return self.begin(answer).options()

    def begin(self, answer: Sequence[int] = ()) -> Answer:
        """An answer to go on with; UserError if it is outside the grammar."""
        begun = Answer(self)
        for token in answer:
            begun.push(token)
        return begun

    def stop_token(self, answer: Sequence[int]) -> int | None:
        """The token by which the next step decides for stop, None where it decides nothing."""
        return self.begin(answer).stop_token()

    def tokens_of(self, actions: Sequence[Action]) -> list[int]:
        """Tokens of some actions at the beginning of an answer, or of as many as it may have."""
        indices = [OPTION_ORDER.index(action) for action in actions[:self.horizon]]
        return [token for at, index in enumerate(indices)
                for token in (self.following if at else self.first)[index]]

    def decode(self, answer: Sequence[int]) -> list[Action]:
        """The actions of a whole answer, with or without its end token.

        Raises UserError if it is not exactly `horizon` phrases.
        """
        answer = list(answer)
        if self.end in answer:
            answer = answer[: answer.index(self.end)]
        whole = self.begin(answer)
        if not whole.complete:
            raise UserError(
                f'the answer {self.tokenizer.decode(answer)!r} holds {len(whole.actions)} whole '
                f'actions where {self.horizon} were asked for'
            )
        return whole.actions

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)['input_ids']

    def _check_phrase_tokens(self):
        """A token such as 'B. Turn left 30 degrees' tells what the model was trained on."""
        phrases = self.action_set.phrases
        heads = tuple(f'{phrase.split(" ")[0]} ' for phrase in phrases)
        for token in sorted(self.tokenizer.get_added_vocab()):
            phrase = token.removeprefix(SEPARATOR)
            if phrase.startswith(heads) and phrase not in phrases:
                raise UserError(
                    f'the tokenizer was made for {phrase!r}, the card says {phrases}; '
                    'give the card the forward_m and turn_deg the model was trained with'
                )


class Answer:
    """An answer of a grammar while it is being decoded, token by token.

    tokens: those so far. actions: the whole phrases among them.
    """

    def __init__(self, grammar: AnswerGrammar):
        self.tokens: list[int] = []
        self.actions: list[Action] = []
        self.grammar = grammar
        self._begin_phrase()

    @property
    def complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return len(self.actions) == self.grammar.horizon

    def options(self) -> list[int]:
        """Tokens that may follow, ascending; after n phrases the end."""
        if self.complete:
            return [self.grammar.end]
        return sorted({rest[0] for rest in self._rests.values()})

    def stop_token(self) -> int | None:
        """The token by which the next step decides for stop, None where it decides nothing."""
        stop = self._rests.get(Action.STOP)
        if stop is None or all(rest[0] == stop[0] for rest in self._rests.values()):
            return None
        return stop[0]

    def push(self, token: int) -> None:
        """Append one of the options; UserError if it is none."""
        self.tokens.append(token)
        rests = {action: rest[1:] for action, rest in self._rests.items() if rest[0] == token}
        if not rests:
            raise UserError(
                f'{self.grammar.tokenizer.decode(self.tokens)!r} is no answer of '
                f'{self.grammar.horizon} actions out of {self.grammar.action_set.phrases}'
            )
        # No phrase's text begins another's, so the one that is complete is the only one.
        done = [action for action, rest in rests.items() if not rest]
        if done:
            self.actions += done
            self._begin_phrase()
        else:
            self._rests = rests

    def push_forced(self) -> list[int]:
        """Append what has no alternative, to the next choice or to the end of the last phrase."""
        forced = []
        while not self.complete and len(options := self.options()) == 1:
            self.push(options[0])
            forced += options
        return forced

    def _begin_phrase(self):
        """What is left of every phrase that may still come next, by its action."""
        grammar = self.grammar
        phrases = grammar.following if self.actions else grammar.first
        self._rests = {} if self.complete else dict(zip(OPTION_ORDER, phrases))
        if self._rests and self.actions[-1:] == [Action.STOP]:
            self._rests = {Action.STOP: self._rests[Action.STOP]}


class StopBias(LogitsProcessor):
    """Adds `bias` to the logit by which an answer decides for stop, for `generate`.

    prompt_length: tokens of the prompt, which precede the answer.
    """

    def __init__(self, grammar: AnswerGrammar, bias: float, prompt_length: int):
        self.grammar = grammar
        self.bias = bias
        self.prompt_length = prompt_length

    def __call__(
        self, input_ids: torch.LongTensor, scores: torch.FloatTensor
    ) -> torch.FloatTensor:
        """scores (batch, vocabulary) of the next token, input_ids (batch, length) before it."""
        scores = scores.clone()
        for row, ids in enumerate(input_ids.tolist()):
            token = self.grammar.stop_token(ids[self.prompt_length:])
            if token is not None:
                scores[row, token] += self.bias
        return scores
