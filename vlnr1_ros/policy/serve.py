"""vlnr1 serve: a checkpoint behind an OpenAI-compatible URL, by transformers' own server.

    vlnr1 serve models/nano --host 127.0.0.1 --port 8000

For a computer without vLLM. `transformers serve` alone finds no processor in checkpoints saved
here (they need no torchvision, the stock Qwen-VL processors do), takes the model for one without
eyes and leaves the images out without an error; this program gives it ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

from vlnr1_ros.navigation.errors import UserError
from vlnr1_ros.resources import given_or_shipped

NEEDS = ('fastapi', 'uvicorn', 'openai')
# The server's own rule for Qwen's answers takes the whole prompt for a part of the answer when the
# chat template writes no role before it, as that of models/nano.
PLAIN_ANSWER = {
    'defaults': {'role': 'assistant'},
    'start_anchor_pattern': r'<\|im_start\|>(?:assistant\n)?',
    'fields': {'content': {'close_pattern': r'\s*(?:<\|im_end\|>|<\|endoftext\|>)',
                           'content': 'text'}},
}


def serve(folder: Path, host: str, port: int, device: str, dtype: str) -> None:
    """Serve the checkpoint in `folder` under its path as the model's name, until interrupted.

    Raises UserError when a package is missing or the folder holds no model of ours.
    """
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'{", ".join(missing)} not installed: pip install \'vlnr1_ros[serve]\'')
    # The library would ask the hub about a folder's optional parts.
    os.environ.setdefault('HF_HUB_OFFLINE', '1')
    from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig
    from transformers.cli.serve import Serve

    from vlnr1_ros.policy.lvlm import check_architecture
    from vlnr1_ros.policy.processor import NavProcessor

    check_architecture(folder)

    class ServedProcessor(NavProcessor):
        @classmethod
        def from_pretrained(cls, folder, **kwargs):
            processor = super().from_pretrained(folder, **kwargs)
            processor.tokenizer.response_template = PLAIN_ANSWER
            return processor

    # found by the name that our checkpoints give
    ServedProcessor.__name__ = NavProcessor.__name__
    for config in (Qwen2VLConfig, Qwen2_5_VLConfig, Qwen3VLConfig):
        AutoProcessor.register(config, ServedProcessor, exist_ok=True)
    Serve(force_model=str(folder), host=host, port=port, device=device, dtype=dtype)


def main(argv: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog='vlnr1 serve', description=__doc__.split('\n\n')[0])
    parser.add_argument('checkpoint', help='folder that save_pretrained wrote, no adapter')
    parser.add_argument('--host', default='127.0.0.1',
                        help='address to listen at; anyone who reaches it can use the model')
    parser.add_argument('--port', type=int, default=8000)
    parser.add_argument('--device', default='auto', help='auto, cuda:0, cpu')
    parser.add_argument('--dtype', default='auto', help='auto (as stored), bfloat16, float32')
    args = parser.parse_args(argv)
    serve(given_or_shipped(args.checkpoint), args.host, args.port, args.device, args.dtype)
    return 0


if __name__ == '__main__':
    sys.exit(main())
