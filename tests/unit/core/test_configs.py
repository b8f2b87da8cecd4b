import enum
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.core.configs import (
    Bound,
    Count,
    Settings,
    Share,
    apply_overrides,
    build,
    field_help,
    fingerprint,
    from_text,
    hints_of,
    load_yaml,
    merge,
    to_plain,
)
from tabom.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    learning_rate: float = 1e-3
    steps: int = 10
    is_fast: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"steps must be at least 1, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    title: str
    training: Inner = field(default_factory=Inner)
    policy: Literal["entropy", "random", "off"] = "entropy"
    seeds: list[int] = field(default_factory=list)
    betas: tuple[float, ...] = (0.9, 0.999)
    arms: list[Inner] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    by_name: dict[str, Inner] = field(default_factory=dict)
    path: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    maybe: Inner | None = None


@dataclass(frozen=True, kw_only=True)
class Arm:
    name: str
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Study:
    arms: tuple[Arm, ...] = ()


def make(**values: Any) -> Outer:
    return build(Outer, {"title": "t", **values})


def test_build_converts_what_yaml_cannot_say() -> None:
    config = make(
        training={"learning_rate": "1e-4", "steps": "20", "is_fast": True},
        betas=[0, "1e-2"],
        arms=[{"steps": 1}, {}],
        weights={"ce": 1},
        by_name={"a": {"name": "x"}},
        path="a/b",
        extra={"free": [1, {"x": None}]},
        maybe={},
    )
    assert config.training == Inner(learning_rate=1e-4, steps=20, is_fast=True)
    assert type(config.training.steps) is int
    assert config.betas == (0.0, 0.01)
    assert all(type(b) is float for b in config.betas)
    assert config.arms == [Inner(steps=1), Inner()]
    assert type(config.weights["ce"]) is float
    assert config.by_name == {"a": Inner(name="x")}
    assert config.path == Path("a/b")
    assert config.extra == {"free": [1, {"x": None}]}
    assert config.maybe == Inner()


def test_optional_union_and_empty_section() -> None:
    assert make(maybe=None, path=None).maybe is None
    assert make(training=None).training == Inner()
    assert make(training=Inner(steps=4)).training.steps == 4
    assert make(training={"steps": 1e3}).training.steps == 1000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"training": {"learning_rte": 1}},
            r"^unknown key 'training\.learning_rte'; did you mean 'learning_rate'\? "
            r"\(known: learning_rate, steps, is_fast, name\)$",
        ),
        ({"zzz": 1}, r"^unknown key 'zzz' \(known: title, training, "),
        ({"training": {"steps": 2.5}}, r"training\.steps: expected an integer, found 2\.5 \(a num"),
        ({"training": {"steps": True}}, r"training\.steps: expected an integer, found true$"),
        ({"training": {"learning_rate": False}}, r"expected a number, found false"),
        ({"training": {"learning_rate": "inf"}}, r"learning_rate must be a finite number, got inf"),
        ({"training": {"learning_rate": "fast"}}, r"expected a number, found 'fast' \(text\)"),
        ({"training": {"learning_rate": None}}, r"expected a number, found null"),
        ({"training": {"is_fast": 1}}, r"expected true or false, found 1 \(an integer\)"),
        ({"training": {"is_fast": "true"}}, r"expected true or false, found 'true' \(text\)"),
        ({"training": {"name": 5}}, r"training\.name: expected text, found 5"),
        ({"training": [1]}, r"^training: expected a mapping, found \[1\] \(a list\)"),
        ({"title": 3}, r"^title: expected text, found 3"),
        ({"policy": "entropi"}, r"one of 'entropy', 'random', 'off', found 'entropi' \(text\); did "
         r"you mean 'entropy'"),
        ({"policy": False}, r"found false; YAML reads on, off, yes and no"),
        ({"seeds": 3}, r"^seeds: expected a list, found 3"),
        ({"seeds": [1, "x"]}, r"^seeds\.1: expected an integer, found 'x'"),
        ({"arms": [{}, {"stps": 1}]}, r"unknown key 'arms\.1\.stps'; did you mean 'steps'"),
        ({"weights": {"ce": "x"}}, r"^weights\.ce: expected a number"),
        ({"weights": [1]}, r"^weights: expected a mapping"),
        ({"by_name": {"a": {"x": 1}}}, r"unknown key 'by_name\.a\.x'"),
        ({"training": {"steps": 2**63}}, r"training\.steps: .*63 bits, found 9223"),
        ({"training": {"learning_rate": 10**400}}, r"training\.learning_rate: .*63 bits"),
        ({"path": 3}, r"^path: expected a path, found 3"),
        ({"maybe": {"steps": "x"}}, r"^maybe\.steps: expected an integer"),
        ({"training": {"steps": 0}}, r"^training: steps must be at least 1, got 0$"),
    ],
)  # fmt: skip
def test_errors_name_path_value_and_type(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**values)


def test_a_list_of_named_things_may_be_a_mapping() -> None:
    found = build(Study, {"arms": {"a": None, "b": {"steps": 2}}})
    assert found.arms == (Arm(name="a"), Arm(name="b", steps=2))
    assert found == build(Study, {"arms": [{"name": "a"}, {"name": "b", "steps": 2}]})
    with pytest.raises(ConfigError, match=r"unknown key 'arms\.b\.stps'; did you mean 'steps'"):
        build(Study, {"arms": {"b": {"stps": 2}}})
    with pytest.raises(ConfigError, match=r"^arms\.b: expected a mapping, found 3"):
        build(Study, {"arms": {"b": 3}})


def test_missing_key_where_and_source() -> None:
    with pytest.raises(ConfigError, match=r"^r\.yaml: missing key 'arms\.title'"):
        build(Outer, {}, where="arms", source="r.yaml")
    with pytest.raises(ConfigError, match=r"^top level: expected a mapping, found null"):
        build(Outer, None)  # type: ignore[arg-type]


def test_load_yaml(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("base: &b {x: 1, y: 2}\nother:\n  <<: *b\n  y: 3\nlr: 1e-4\n")
    assert load_yaml(path) == {
        "base": {"x": 1, "y": 2},
        "other": {"x": 1, "y": 3},
        "lr": "1e-4",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", r"line 4: key 'c' is there already \(line 3\)"),
        ("a: 1\non: 2\n", r"line 2: key 'on' is not text; put it in quotes"),
        ("a: 1\n1: 2\n", r"line 2: key '1' is not text"),
        ("a: 1\nb: [1\n", r"r\.yaml, line 3: not valid YAML"),
        ("a: b: c\n", r"line 1: not valid YAML \(mapping values are not allowed here\)"),
        ("- 1\n", r"expected 'key: value' lines at the top, found \[1\]"),
        ("", r"at the top, found nothing"),
        ("a: !!python/object/apply:os.getcwd []\n", r"line 1: not valid YAML"),
        ("a: " + "[" * 3000 + "]" * 3000, r"nested too deeply"),
        ("a: {b: &x [*x]}\n", r"line 1: .*recursive"),
        ("a:\n- !!binary aGk=\n", r"line 2: .*binary"),
        ("a: !!set {b, c}\n", r"line 1: .*set"),
        ("a: !!timestamp 2024-01-01\n", r"line 1: .*timestamp"),
        ('a: "\\ud800"\n', r"line 1: .* is not a valid str"),
        ("a: 1\nb: !!int ''\n", r"line 2: '' is not a valid int"),
        ("a: !!float x\n", r"line 1: 'x' is not a valid float"),
        ("a: !!bool maybe\n", r"line 1: 'maybe' is not a valid bool"),
        ("a: 1" + "0" * 5000, r"line 1: '100.*' is not a valid int"),
    ],
)
def test_load_yaml_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path)
    assert str(path) in str(caught.value)


def test_a_date_is_text_and_aliases_of_aliases_are_not_printed_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    lines = ["a0: &a0 [2024-01-01, 2024-13-45]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    path.write_text("\n".join(lines))
    found = load_yaml(path)
    assert found["a0"] == ["2024-01-01", "2024-13-45"]
    with pytest.raises(ConfigError, match=r"^title: expected text, found \["):
        make(title=found["a19"])


def test_load_yaml_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: .*No such file"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "x.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_yaml(tmp_path / "x.yaml")


def test_overrides() -> None:
    mapping = {"training": {"lr": 1}, "arms": [{"name": "a"}, {"name": "b"}], "empty": None}
    changed = apply_overrides(
        mapping,
        ["training.lr=1e-4", "arms.1.name=c", "new.deep.key=[1, 2]", "empty.x=null", "arms.0={}",
         "text=a=b"],
    )  # fmt: skip
    assert changed == {
        "training": {"lr": "1e-4"},
        "arms": [{}, {"name": "c"}],
        "new": {"deep": {"key": [1, 2]}},
        "empty": {"x": None},
        "text": "a=b",
    }
    named = apply_overrides(
        {"arms": {"a": {"x": 1}, "b": None}, "list": mapping["arms"]},
        ["arms.0.x=2", "arms.b.y=3", "list.b.z=4", "arms.7={}"],
    )
    assert named == {
        "arms": {"a": {"x": 2}, "b": {"y": 3}, "7": {}},
        "list": [{"name": "a"}, {"name": "b", "z": 4}],
    }
    assert mapping["arms"] == [{"name": "a"}, {"name": "b"}]  # the original is untouched
    assert mapping["empty"] is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lr", "expected 'section.key=value'"),
        ("=3", "expected 'section.key=value'"),
        ("a..b=3", "expected 'section.key=value'"),
        ("training.lr.x=3", r"training\.lr\.x'.*1 \(an integer\)"),
        ("arms.2.name=x", "arms.2.name.*from 0 to 1 .*'2'"),
        ("arms.name=x", "found 'name'"),
        ("a=[1", "not valid YAML"),
        ("a={x: 1, x: 2}", "not valid YAML"),
    ],
)
def test_override_errors(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"training": {"lr": 1}, "arms": [{}, {}]}, [override])


def test_merge_goes_into_mappings_and_replaces_all_else() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 1, "e": {"f": 1}}
    assert merge(base, {"a": {"c": [3]}, "d": None, "e": None}) == {
        "a": {"b": 1, "c": [3]}, "d": None, "e": {"f": 1},
    }  # fmt: skip
    assert merge(base, {"a": [1], "d": {"x": 1}}) == {"a": [1], "d": {"x": 1}, "e": {"f": 1}}
    assert base["a"] == {"b": 1, "c": [1, 2]}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("title", "2024-01-01", "2024-01-01"),
        ("title", "# {prompt}", "# {prompt}"),
        ("title", "{prompt}\nThink: step by step.", "{prompt}\nThink: step by step."),
        ("title", "null", "null"),
        ("title", "yes", "yes"),
        ("title", "007", "007"),
        ("path", "runs/model #2", Path("runs/model #2")),
        ("policy", "off", "off"),
        ("betas", ["0.5", "1e-2"], (0.5, 0.01)),
        ("seeds", ["1", "2"], [1, 2]),
        ("extra", "{task: sort, more: [1, x]}", {"task": "sort", "more": [1, "x"]}),
        ("maybe", "null", None),
        ("maybe", "{steps: 3}", Inner(steps=3)),
    ],
)
def test_a_flag_is_converted_by_the_type_of_its_field(name: str, text: Any, value: Any) -> None:
    assert from_text(text, hints_of(Outer)[name], f"--{name}") == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("steps", "2.5", r"^--steps: expected an integer, found '2\.5'"),
        ("steps", "1" + "0" * 30, r"^--steps: .*63 bits"),
        ("steps", "", r"^--steps: expected an integer, found ''"),
        ("is_fast", "maybe", r"^--is_fast: expected true or false, found 'maybe'"),
        ("learning_rate", "fast", r"^--learning_rate: expected a number, found 'fast'"),
    ],
)
def test_a_flag_of_another_type_is_named(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_text(text, hints_of(Inner)[name], f"--{name}")
    assert from_text("Yes", bool, "--is_fast") is True
    assert from_text("1e3", int, "--steps") == 1000


@dataclass(frozen=True, kw_only=True)
class Bounded(Settings):
    steps: Count = 1
    """How many."""
    top_p: Share | None = None
    """A share,
    in two lines."""
    lr: Annotated[float, Bound(">=", 0), Bound("<", 1)] = 0.0
    policy: Literal["a", "b"] | None = "a"


@dataclass(frozen=True, kw_only=True)
class MoreBounded(Bounded):
    """Has one more."""

    more: int = 0
    """One more."""


def test_help_stands_under_the_fields() -> None:
    assert field_help(MoreBounded) == {
        "steps": "How many.", "top_p": "A share, in two lines.", "more": "One more.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, r"^steps must be at least 1, got 0$"),
        ({"top_p": 0.0}, r"^top_p must be above 0, got 0\.0$"),
        ({"top_p": 1.5}, r"^top_p must be at most 1, got 1\.5$"),
        ({"lr": 1.0}, r"^lr must be below 1"),
        ({"lr": float("nan")}, r"^lr must be a finite number, got nan"),
        ({"policy": "c"}, r"^policy: expected one of 'a', 'b', found 'c'"),
    ],
)
def test_bounds_and_choices_hold_for_objects_made_by_code(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Bounded(**values)
    with pytest.raises(ConfigError, match=r"^here\." + message[1:]):
        build(Bounded, values, where="here")


def test_what_is_in_bounds_is_taken() -> None:
    assert Bounded(top_p=1.0, policy=None, lr=0.5).top_p == 1.0


def test_the_file_that_says_a_key_is_named() -> None:
    def file_of(key: str) -> str:
        return "child.yaml" if key.startswith("training") else "base.yaml"

    with pytest.raises(ConfigError, match=r"^child\.yaml: unknown key 'training\.x'"):
        build(Outer, {"title": "t", "training": {"x": 1}}, source=file_of)
    with pytest.raises(ConfigError, match=r"^base\.yaml: missing key 'title'"):
        build(Outer, {}, source=file_of)


def test_to_plain() -> None:
    class Color(enum.Enum):
        RED = "red"

    plain = to_plain(
        {"d": Inner(), "t": (1, {2, 1}), "n": np.float32(0.25), "a": np.arange(3), "c": Color.RED,
         "p": Path("x/y"), "nan": float("nan"), "inf": -np.inf, "b": np.bool_(True), 3: None}
    )  # fmt: skip
    assert plain == {
        "d": {"learning_rate": 1e-3, "steps": 10, "is_fast": False, "name": None},
        "t": [1, [1, 2]], "n": 0.25, "a": [0, 1, 2], "c": "red", "p": "x/y", "nan": None,
        "inf": "-inf", "b": True, "3": None,
    }  # fmt: skip
    with pytest.raises(TypeError, match="object has no plain JSON form"):
        to_plain(object())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), json_values, min_size=2), st.randoms(use_true_random=False))
def test_fingerprint_ignores_key_order_only(mapping: dict[str, Any], random) -> None:
    items = list(mapping.items())
    random.shuffle(items)
    assert fingerprint(dict(items)) == fingerprint(mapping)
    assert fingerprint({**mapping, items[0][0]: [items[0][1]]}) != fingerprint(mapping)
    assert fingerprint(mapping, 1) != fingerprint(1, mapping)


def test_fingerprint_is_frozen_and_16_hex() -> None:
    # sha256 of '[{"a":1,"b":[true,null]}]'
    assert fingerprint({"b": [True, None], "a": 1}) == "f20243358b11ff01"


def test_build_of_to_plain_is_the_identity() -> None:
    config = make(training={"learning_rate": 0.5}, arms=[{"steps": 3}], path="a", betas=[1, 2])
    assert build(Outer, to_plain(config)) == config


def test_errors_survive_the_way_from_a_worker_process() -> None:
    with pytest.raises(ConfigError) as caught:
        make(training={"steps": 0.5})
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again)(f"seed 0 train: {again}").args[0].startswith("seed 0 train: training.steps")


def test_settings_show_what_differs_from_its_default() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Shown(Settings):
        name: str
        rate: float = 1.0
        parts: tuple[int, ...] = ()
        nested: dict[str, int] = field(default_factory=dict)

    assert repr(Shown(name="a")) == "Shown(name='a')"
    assert repr(Shown(name="a", rate=1)) == "Shown(name='a', rate=1)"  # an int is shown
    many = repr(Shown(name="x" * 500, parts=tuple(range(1000)), nested={"k": 1}))
    assert "nested={'k': 1}" in many
    assert "rate" not in many
    assert len(many) < 200
