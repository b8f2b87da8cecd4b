"""Recipes and rows that somebody got wrong: only errors of ours, or a result.

    python benchmarks/fuzz.py                  # 2,000 recipes and 10,000 rows per converter

Recipes are the package's own with some values replaced, removed or moved by chance, also by what
YAML can say and a recipe cannot. Rows are sound rows of each format, changed the same way; they go
through the reader and, where they pass, through the store's schema. Whatever is not taken must be
refused by an error of ours (`TabomError`); any other exception is printed, and ends the script
with status 1.
"""

import argparse
import copy
import json
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from common import RESULTS
from tabom.core.errors import TabomError
from tabom.core.recipe_file import recipe_names
from tabom.stages.recipe import load_recipe
from tabom.toyworld.tokenizer import build_tokenizer
from tabom.trajectory.convert import FORMATS
from tabom.trajectory.convert.cells import Cells, Source
from tabom.trajectory.schema import to_arrow

STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 0.5, 1e308, float("nan"),
    float("inf"), "", " ", "null", "~", "../../x", "/etc/passwd", "\x00", "\ud83d", "é" * 200,
    "a\nb", "{prompt}", "<|mask|>", "1e-4", "true", [], [[]], {}, {"": 1}, {"a": {"b": []}},
    [None], [1, "a"], ["x"] * 50, {"name": "x"}, b"\xff", "!!int ''", "2024-01-01",
]  # fmt: skip


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a nested value, the top left out."""
    items = (
        value.items() if isinstance(value, dict)
        else enumerate(value) if isinstance(value, list)
        else ()
    )  # fmt: skip
    found = []
    for key, inner in items:
        found += [(*at, key), *paths(inner, (*at, key))]
    return found


def changed(value: Any, rng: random.Random) -> Any:
    """A copy with one to three things replaced, removed, renamed or doubled."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        places = paths(value)
        if not places:
            return rng.choice(STRANGE)
        *above, key = rng.choice(places)
        target = value
        for one in above:
            target = target[one]
        match rng.randrange(6):
            case 0:
                del target[key]
            case 1 if isinstance(target, dict):
                target[str(key) + rng.choice("sx_ ")] = target.pop(key)
            case 2:
                target[key] = [target[key]]
            case 3:
                target[key] = {"value": target[key]}
            case _:
                target[key] = copy.deepcopy(rng.choice(STRANGE))
    return value


class Tally:
    """Outcomes of one kind of input, and the tracebacks that must not be."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.bugs: list[str] = []

    def run(self, call: Callable[[], Any]) -> None:
        try:
            call()
            self.outcomes["taken"] += 1
        except TabomError:
            self.outcomes["refused"] += 1
        except Exception:
            self.outcomes["bug"] += 1
            self.bugs.append(traceback.format_exc())


def fuzz_recipes(number: int, rng: random.Random, folder: Path) -> Tally:
    tally = Tally()
    sound = [yaml.safe_load(recipe_file(name).read_text()) for name in recipe_names()]
    path = folder / "recipe.yaml"
    for i in range(number):
        text = yaml.dump(changed(rng.choice(sound), rng), allow_unicode=True).encode(
            "utf-8", "surrogatepass"
        )
        if i % 5 == 0:  # and text that is no YAML any more
            content = bytearray(text)
            for _ in range(rng.randint(1, 4)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            text = bytes(content)
        path.write_bytes(text)
        tally.run(lambda: load_recipe(str(path)))
    return tally


def recipe_file(name: str) -> Path:
    import tabom

    return Path(tabom.__file__).parent / "recipes" / f"{name}.yaml"


def sound_rows(name: str) -> list[dict[str, Any]]:
    """Rows of a format as their projects write them, on the toy world's tokenizer."""
    tokenizer = build_tokenizer()
    ids = tokenizer("21<eos><eos>", add_special_tokens=False)["input_ids"]
    prompt, mask = tokenizer("12", add_special_tokens=False)["input_ids"], tokenizer.mask_token_id
    if name == "tabom_jsonl":
        common = {"response_token_ids": ids, "decoding_order": [3, 1, 0, 3], "method": "entropy"}
        return [
            {**common, "question": "12", "gen_text": "21", "data_source": "prm12"},
            {**common, "prompt": "12", "response": "21"},
            {**common, "messages": [
                {"role": "user", "content": "12"}, {"role": "assistant", "content": "21"},
            ]},
        ]  # fmt: skip
    if name == "step_map":
        return [
            {"prompt": "12", "response": "21", "step_map": [1, 0]},
            {"prompt": "12", "full_output": ["21", "21"], "step_map": [[1, 0], [0, 1]],
             "correctness": [True, False]},
        ]  # fmt: skip
    states = [[mask] * 4, [mask, ids[1], mask, mask], [ids[0], ids[1], mask, mask], ids]
    return [{"question": "12", "prompt_ids": prompt, "trajectory": [prompt + s for s in states],
             "llm_response": "21", "is_correct": True}]  # fmt: skip


def fuzz_rows(name: str, number: int, rng: random.Random, folder: Path) -> Tally:
    from tabom.core.rows import read_rows

    tally, tokenizer = Tally(), build_tokenizer()
    how, path = import_module(f"tabom.trajectory.convert.{name}"), folder / "rows.jsonl"
    expand = getattr(how, "expand", lambda row: [row])
    for i in range(number):
        row = changed(rng.choice(sound_rows(name)), rng) if i else sound_rows(name)[0]
        text = json.dumps(row, default=lambda v: v.hex(), allow_nan=True)
        if i % 10 == 9:
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice('"{}[],:0\\') + text[place + 1 :]
        path.write_text(text + "\n", encoding="utf-8", errors="surrogatepass")
        source = Source(
            tokenizer=tokenizer,
            mask_id=tokenizer.mask_token_id,
            end_ids=(tokenizer.eos_token_id,),
            vocab_size=len(tokenizer),
            allow_ltr=rng.random() < 0.5,
        )

        def convert(source: Source = source) -> None:
            for one in read_rows(path):
                for part in expand(one):
                    cells = Cells(values=part.cells(), place=part.place, source=source)
                    to_arrow([how.read(cells)])

        tally.run(convert)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tallies = {"recipes": fuzz_recipes(args.recipes, rng, folder)}
        for one in FORMATS:
            tallies[one] = fuzz_rows(one, args.rows, rng, folder)
    for kind, tally in tallies.items():
        print(kind, dict(tally.outcomes))
        for bug in Counter(b.strip().splitlines()[-1] for b in tally.bugs).most_common(10):
            print("   ", bug)
        for bug_text in tally.bugs[:3]:
            print(bug_text)
    record = {kind: dict(tally.outcomes) for kind, tally in tallies.items()}
    (RESULTS / "fuzz.json").write_text(json.dumps({"seed": args.seed, **record}, indent=2) + "\n")
    sys.exit(any(tally.bugs for tally in tallies.values()))


if __name__ == "__main__":
    main()
