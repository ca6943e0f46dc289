"""A large vision-language model as policy, in the plain way: the reference for faster ones.

Every decision encodes the sampled frames and the whole prompt anew and decodes greedily within
the action grammar.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForImageTextToText,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedConfig,
)
from transformers.utils import logging

from vlnr1_ros.navigation.actions import Action
from vlnr1_ros.navigation.card import NavigationCard
from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.navigation.memory import History
from vlnr1_ros.navigation.prompt import check_instruction
from vlnr1_ros.policy.grammar import AnswerGrammar, StopBias
from vlnr1_ros.policy.processor import NavProcessor, encode_prompt, first_line

ARCHITECTURES = ('qwen2_vl', 'qwen2_5_vl', 'qwen3_vl')
ADAPTER_FILE = 'adapter_config.json'


class LvlmPolicy:
    """A Qwen-VL checkpoint with its card.

    folder: what `save_pretrained` wrote (model and processor, or a LoRA adapter that names its
    base model) and navigation.json.
    device: a torch device; by default the GPU if there is one.
    dtype: a torch dtype, or 'auto' for that of the stored weights; by default float32 on a CPU,
    'auto' elsewhere.
    Raises UserError that names what is missing or does not fit.
    """

    def __init__(
        self, folder: str | Path, device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
    ):
        self.card = NavigationCard.load(folder)
        self.device = usable_device(device)
        if dtype is None:
            dtype = torch.float32 if self.device.type == 'cpu' else 'auto'
        self.model = load_model(folder, dtype).to(self.device).eval()
        self.processor = load_processor(folder)
        self.grammar = AnswerGrammar(
            self.processor.tokenizer, self.card.action_set, self.card.horizon
        )
        self.generation = GenerationConfig(
            do_sample=False, max_new_tokens=self.grammar.max_tokens,
            eos_token_id=self.grammar.end, pad_token_id=self.processor.tokenizer.pad_token_id,
        )
        # Published checkpoints bring sampling and repetition penalties that `generate` would
        # mix into ours.
        self.model.generation_config = self.generation
        self._instruction: str | None = None

    def reset(self, instruction: str, seed: int = 0) -> None:
        """Begin an episode; decoding is greedy, so `seed` changes nothing.

        Raises UserError if the instruction is empty, too long or holds a token of the prompt's
        own markup.
        """
        self._instruction = self.checked(instruction)

    def checked(self, instruction: str) -> str:
        """The instruction with its white space tidied; UserError as of `reset`."""
        instruction = check_instruction(instruction)
        for token in self.processor.tokenizer.added_tokens_decoder.values():
            if token.special and token.content in instruction:
                raise UserError(
                    f'the instruction contains {token.content!r}, which the model reads as '
                    'markup; leave it out'
                )
        return instruction

    def question(self, instruction: str | None, history: History):
        """(blocks of the prompt, its frames) of the next decision; UserError before `reset`."""
        if instruction is None:
            raise UserError('there is no instruction yet; call reset first')
        return self.card.question(instruction, history)

    def inputs(self, history: History):
        """Model inputs of the next decision (see `processor.encode_prompt`), on the device."""
        blocks, frames = self.question(self._instruction, history)
        if self.card.blind:
            frames = [np.zeros_like(frame) for frame in frames]
        return encode_prompt(self.processor, blocks, frames).to(self.device)

    @torch.inference_mode()
    def plan(self, history: History) -> list[Action]:
        """The next `card.horizon` actions."""
        inputs = self.inputs(history)
        prompt_length = inputs['input_ids'].shape[1]
        output = self.model.generate(
            **inputs,
            generation_config=self.generation,
            prefix_allowed_tokens_fn=lambda _, ids: self.grammar.allowed(
                ids[prompt_length:].tolist()
            ),
            logits_processor=LogitsProcessorList(
                [StopBias(self.grammar, self.card.stop_bias, prompt_length)]
            ),
        )
        return self.grammar.decode(output[0, prompt_length:].tolist())


def usable_device(device: str | torch.device | None) -> torch.device:
    """A torch device, by default the GPU if there is one; UserError when it cannot be used."""
    try:
        found = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
        torch.empty(0, device=found)
    # a torch without CUDA answers with an assertion
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f'device {str(device)!r} cannot be used ({first_line(error)}); give cpu '
                        'or cuda:0, or leave it out') from None
    return found


def load_model(folder: str | Path, dtype: torch.dtype | str):
    """The model in `folder` with its weights in `dtype`; an adapter is merged into its base.

    Weights are loaded in `dtype` rather than converted: `model.half()` would round the rotary
    frequencies too. Raises UserError.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_FILE).is_file():
        return _load_whole(folder, dtype)
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    base_folder = _base_of_adapter(folder)
    base = _load_whole(base_folder, dtype)
    try:
        adapted = PeftModel.from_pretrained(base, folder)
        stored, taken = load_peft_weights(folder, 'cpu'), get_peft_model_state_dict(adapted)
        # The library would leave the odd ones out, or zero, with no more than a warning.
        if (odd := sorted(stored.keys() ^ taken.keys())) or _another_class(adapted, base):
            raise UserError(
                f'{folder}: the adapter was made for another base than {base_folder}'
                + (f': {len(odd)} weights do not fit, for example {odd[0]}' if odd else '')
                + f'; correct base_model_name_or_path in {ADAPTER_FILE}'
            )
        return adapted.merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f'{folder}: the adapter cannot be loaded ({first_line(error)})') from error


def _another_class(adapted, base) -> bool:
    """Whether an adapter names the class it was made for, and it is not the base's."""
    mapping = adapted.peft_config['default'].auto_mapping or {}
    return mapping.get('base_model_class', type(base).__name__) != type(base).__name__


def load_processor(folder: str | Path) -> NavProcessor:
    """The processor in `folder`, or of an adapter's base if the adapter brings none."""
    folder = Path(folder)
    if (folder / ADAPTER_FILE).is_file() and not (folder / 'tokenizer_config.json').is_file():
        folder = _base_of_adapter(folder)
    return NavProcessor.from_pretrained(folder)


def _load_whole(folder: str | Path, dtype):
    check_architecture(folder)
    if not sys.stderr.isatty():
        # A log has no use for the frames of a progress bar.
        logging.disable_progress_bar()
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f'{folder}: the model cannot be loaded ({first_line(error)})') from error
    if report['missing_keys']:
        # The library would go on with random numbers in their place.
        raise UserError(
            f'{folder} lacks {len(report["missing_keys"])} weights, '
            f'for example {min(report["missing_keys"])}; copy the checkpoint again'
        )
    return model


def check_architecture(folder: str | Path) -> None:
    """UserError unless config.json of a folder or hub name is that of a model for a policy."""
    try:
        kind = PreTrainedConfig.get_config_dict(folder)[0].get('model_type')
        why = 'no config.json there names a model_type'
    except (OSError, ValueError) as error:
        kind, why = None, first_line(error)
    if kind is None:
        raise UserError(f'{folder}: the model cannot be loaded ({why}); give a folder that '
                        'save_pretrained wrote')
    if kind not in ARCHITECTURES:
        raise UserError(
            f'{folder} holds a {kind!r} model; supported are {", ".join(ARCHITECTURES)}'
        )


def _base_of_adapter(folder: Path) -> str:
    """Folder or hub name of the base model that an adapter names."""
    path = folder / ADAPTER_FILE
    try:
        base = json.loads(path.read_text(encoding='utf-8')).get('base_model_name_or_path')
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f'{path} cannot be read ({error}); copy the adapter again') from error
    if not base:
        raise UserError(f'{path} names no base_model_name_or_path; add the name or the folder of '
                        'the model that the adapter belongs to')
    return base
