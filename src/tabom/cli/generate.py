"""`tabom generate MODEL --prompt TEXT`: decode prompts and print the responses."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tabom.cli import speak
from tabom.core.errors import DataError

if TYPE_CHECKING:
    from tabom.collect.prompts import Prompt
    from tabom.trajectory.record import Trajectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom generate`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", metavar="TEXT", help="one user message; - reads it from stdin")
    source.add_argument(
        "--prompts", metavar="FILE", help=".jsonl, .json, .parquet or .csv; .txt: one a line"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="decoded together (default: 8)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a response, one response a line"
    )
    speak.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Decode and print, in the order of the prompts."""
    from tabom.cli.live import Screen
    from tabom.core.text import safe
    from tabom.decoding.decoder import Decoder

    settings = speak.settings_of(args)
    prompts = _prompts(args)
    model, screen = settings.model.load(), Screen(sys.stdout)
    requests = [speak.request_of(model, prompt.prompt, prompt.id) for prompt in prompts]
    if len(requests) == 1 and not args.json:
        speaker = speak.Speaker(model=model, screen=screen, seed=args.seed)
        speaker.speak(requests[0], settings.decoding)
        return 0
    decoder = Decoder(model, settings.decoding, seed=args.seed, batch_size=args.batch_size)
    for prompt, item in zip(prompts, decoder.in_order(requests), strict=True):
        if args.json:
            screen.write(_json(prompt, item.trajectory) + "\n")
        else:
            first = safe(" ".join(prompt.text.split()))
            screen.write(f"[{prompt.id}] {first}\n{safe(item.trajectory.response)}\n\n")
    return 0


def _prompts(args: argparse.Namespace) -> list["Prompt"]:
    from tabom.collect.prompts import Prompt, PromptSource, load_prompts

    if args.prompt is not None:
        text = sys.stdin.read() if args.prompt == "-" else args.prompt
        if not text.strip():
            raise DataError("--prompt is empty; give it some text")
        return [Prompt(id="prompt", prompt=text.strip("\n") if args.prompt == "-" else text)]
    if not args.prompts.endswith(".txt"):
        return load_prompts(PromptSource(path=args.prompts), seed=args.seed)
    try:
        lines = Path(args.prompts).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompts {args.prompts}: cannot be read as text ({error})") from error
    found = [
        Prompt(id=f"line-{number}", prompt=line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not found:
        raise DataError(f"--prompts {args.prompts}: no line has a prompt")
    return found


def _json(prompt: "Prompt", trajectory: "Trajectory") -> str:
    from tabom.core.plain import to_plain

    row = {
        "id": prompt.id,
        "prompt": prompt.prompt,
        "response": trajectory.response,
        "token_ids": trajectory.response_ids_N,
        "step": trajectory.step_N,
        "entropy": trajectory.entropy_N,
        "confidence": trajectory.confidence_N,
        "num_forwards": trajectory.num_forwards,
    }
    return json.dumps(to_plain(row))  # NaN, at slots that were never revealed, becomes null
