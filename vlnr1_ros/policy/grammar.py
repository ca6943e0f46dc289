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
        self._stop = OPTION_ORDER.index(Action.STOP)

    def allowed(self, answer: Sequence[int]) -> list[int]:
        """Tokens that may follow the `answer` decoded so far, ascending; after n phrases the end.

        Raises UserError if `answer` itself is outside the grammar.
        """
        actions, begun = self._parse(answer)
        if len(actions) == self.horizon:
            return [self.end]
        return sorted({rest[0] for rest in self._rests(actions, begun).values()})

    def stop_token(self, answer: Sequence[int]) -> int | None:
        """The token by which the next step decides for stop, None where it decides nothing."""
        actions, begun = self._parse(answer)
        if len(actions) == self.horizon:
            return None
        rests = self._rests(actions, begun)
        stop = rests.get(self._stop)
        if stop is None or all(rest[0] == stop[0] for rest in rests.values()):
            return None
        return stop[0]

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
        actions, begun = self._parse(answer)
        if begun or len(actions) != self.horizon:
            raise UserError(
                f'the answer {self.tokenizer.decode(answer)!r} holds {len(actions)} whole '
                f'actions where {self.horizon} were asked for'
            )
        return [OPTION_ORDER[index] for index in actions]

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

    def _rests(self, actions: list[int], begun: list[int]) -> dict[int, list[int]]:
        """What is left of every phrase that may still come next, by its index."""
        phrases = self.following if actions else self.first
        if actions and actions[-1] == self._stop:
            return {self._stop: phrases[self._stop][len(begun):]}
        return {
            index: tokens[len(begun):]
            for index, tokens in enumerate(phrases)
            if tokens[: len(begun)] == begun
        }

    def _parse(self, answer: Sequence[int]) -> tuple[list[int], list[int]]:
        """(indices of the whole phrases, tokens of the phrase begun)."""
        actions: list[int] = []
        begun: list[int] = []
        for token in answer:
            rests = {} if len(actions) == self.horizon else self._rests(actions, begun)
            fitting = {index: rest for index, rest in rests.items() if rest[0] == token}
            if not fitting:
                raise UserError(
                    f'{self.tokenizer.decode(list(answer))!r} is no answer of {self.horizon} '
                    f'actions out of {self.action_set.phrases}'
                )
            begun = begun + [token]
            done = [index for index, rest in fitting.items() if len(rest) == 1]
            if done:
                # No phrase's text begins another's, so the one that is complete is the only one.
                actions, begun = actions + done, []
        return actions, begun


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
