"""`tabom toyworld pretrain DIR`: make the embedded base model again."""

import argparse
import sys
from collections.abc import Sequence

from tabom.core.errors import ConfigError
from tabom.toyworld.curriculum import WORLDS
from tabom.toyworld.tasks import DOMAINS

NUM_PROMPTS = 64
LEAST_HOPS = 90.0  # percent; below, the look-up in a map was not learnt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of `tabom toyworld`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    pretrain = actions.add_parser("pretrain", help="train the toy base from scratch")
    pretrain.add_argument("output_dir", help="where to write the checkpoint")
    pretrain.add_argument("--seed", type=int, default=0, help="key of all draws (default: 0)")
    pretrain.add_argument(
        "--chain_share",
        type=float,
        help="share of the new domain in the mixture (default: 0.015); 0.001 made toy-hasty",
    )
    pretrain.add_argument(
        "--world", choices=sorted(WORLDS), help="another base than toy-base, see docs/toyworld.md"
    )


def run(args: argparse.Namespace) -> int:
    """Pretrain, then measure: a base that did not learn its tasks should not go unnoticed."""
    from tabom.toyworld.base import pretrain
    from tabom.toyworld.curriculum import LESSONS, World, curriculum

    lessons, num_layers, options = LESSONS, 3, ""
    if args.world is not None and args.chain_share is not None:
        raise ConfigError("chain_share is of toy-base; it does not go with world")
    if args.world is not None:
        world: World = WORLDS[args.world]
        lessons, num_layers = world.lessons, world.num_layers
        options = f" --world {args.world}"
    if args.chain_share is not None:
        lessons = curriculum(chain_share=args.chain_share)
        options = f" --chain_share {args.chain_share:g}"
    pretrain(
        args.output_dir, seed=args.seed, lessons=lessons, num_layers=num_layers, options=options
    )
    tasks = [task for task in DOMAINS if task in lessons[-1].shares]
    accuracy = measure(args.output_dir, tasks)
    for task, percent in accuracy.items():
        print(f"{task}: {percent:.1f}")
    print(f"output: {args.output_dir}")
    if args.world is None and accuracy["hops"] < LEAST_HOPS:
        print(
            f"warning: hops are at {accuracy['hops']:.0f}%, so this base did not learn to look up "
            "a map; take another --seed, or a longer lesson `maps` in toyworld/curriculum.py",
            file=sys.stderr,
        )
    return 0


def measure(folder: str, tasks: Sequence[str]) -> dict[str, float]:
    """Percent of held-out prompts of each task that a base answers right, one slot a step."""
    from tabom.decoding.config import DecodingConfig
    from tabom.decoding.decoder import Decoder, DecodeRequest
    from tabom.models.loading import load_model
    from tabom.toyworld.alphabet import NUM_SLOTS
    from tabom.toyworld.tasks import check, prompts

    model = load_model(folder)
    accuracy = {}
    for task in tasks:
        rows = prompts(task=task, split="eval", seed=0, num=NUM_PROMPTS)
        requests = [
            DecodeRequest(
                id=row["id"], prompt_ids=model.encode_prompt(row["prompt"]), row=dict(row)
            )
            for row in rows
        ]
        decoder = Decoder(model, DecodingConfig(max_new_tokens=NUM_SLOTS), batch_size=NUM_PROMPTS)
        found = [
            check(response=item.trajectory.response, row=item.trajectory.row)[0] == "accepted"
            for item in decoder.decode(requests)
        ]
        accuracy[task] = 100 * sum(found) / len(found)
    return accuracy
