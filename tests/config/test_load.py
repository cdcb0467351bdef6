"""YAML, --set and options: what is read, what wins, and how every problem is told."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from ragkit.config import load
from ragkit.config.blocks import Block
from ragkit.errors import ConfigError


class Cat(Block):
    type: Literal["cat"]
    lives: int = 9
    temperature: float = 38.5


class Dog(Block):
    type: Literal["dog"]
    tricks: list[str] = []
    owner: str


class Cage(Block):
    width: float = 1.0
    inmate: Annotated[Cat | Dog, Field(discriminator="type")] = Cat(type="cat")


class Zoo(Block):
    name: str = "zoo"
    seed: int = 0
    rate: float = 0.1
    cage: Cage = Cage()
    animals: list[Annotated[Cat | Dog, Field(discriminator="type")]] = []
    keepers: dict[str, Annotated[Cat | Dog, Field(discriminator="type")]] = {}


class Fusion(Block):
    type: Literal["fused"]
    method: Literal["rrf", "weighted"] = "rrf"
    depth: int = 10


class Plain(Block):
    type: Literal["plain"]


class Search(Block):
    system: Annotated[Fusion | Plain, Field(discriminator="type")]


def from_yaml(text: str, *sets: str) -> Zoo:
    source = load.merge([load.parse_yaml(text, "zoo.yaml"), *map(load.parse_set, sets)])
    return load.build(Zoo, source)


def problems(text: str, *sets: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_yaml(text, *sets)
    return caught.value.problems


def test_all_problems_are_told_at_once_with_their_lines() -> None:
    text = "nmae: x\nseed: many\ncage:\n  inmate:\n    type: dog\n    trikcs: []\n"
    assert sorted(problems(text)) == [
        "zoo.yaml:1  nmae: unknown key (did you mean name?)",
        "zoo.yaml:2  seed: 'many': should be a valid integer, unable to parse string as an integer",
        "zoo.yaml:4  cage.inmate.owner: missing; it has no default",
        "zoo.yaml:6  cage.inmate.trikcs: unknown key (did you mean tricks?)",
    ]


def test_a_typo_inside_a_union_inside_a_list_is_told_with_line_and_suggestion() -> None:
    text = "animals:\n  - type: cat\n    lives: 7\n  - type: cat\n    temprature: 39\n"
    assert problems(text) == [
        "zoo.yaml:5  animals.1.temprature: unknown key (did you mean temperature?)"
    ]


def test_a_typo_inside_a_union_inside_a_mapping_is_told_with_its_name_there() -> None:
    text = "keepers:\n  dog:\n    type: cat\n    livs: 7\n  b: {type: dog}\n  c: {type: dgo}\n"
    assert sorted(problems(text)) == [
        "zoo.yaml:4  keepers.dog.livs: unknown key (did you mean lives?)",
        "zoo.yaml:5  keepers.b.owner: missing; it has no default",
        "zoo.yaml:6  keepers.c.type: 'dgo' is not one of cat, dog (did you mean dog?)",
    ]


def test_suggestions_come_from_the_chosen_member_of_the_union() -> None:
    [problem] = problems("cage: {inmate: {type: dog, owner: me, livs: 3}}")
    assert problem == "zoo.yaml:1  cage.inmate.livs: unknown key (known are type, tricks, owner)"


def test_an_unknown_type_is_told_at_its_own_line_with_the_known_ones() -> None:
    assert problems("animals:\n  - lives: 3\n    type: dgo\n") == [
        "zoo.yaml:3  animals.0.type: 'dgo' is not one of cat, dog (did you mean dog?)"
    ]


def test_a_block_without_its_type_says_that_the_type_is_missing() -> None:
    assert problems("cage:\n  width: 2\nanimals:\n  - lives: 3\n") == [
        "zoo.yaml:4  animals.0.type: missing; which kind is it?"
    ]


def test_a_wrong_value_of_a_set_is_told_as_it_was_typed() -> None:
    assert problems("seed: 1", "cage.width=wide") == [
        "--set cage.width=wide  cage.width: 'wide': should be a valid number, "
        "unable to parse string as a number"
    ]


def test_a_long_wrong_value_is_shortened_in_the_message() -> None:
    [problem] = problems(f"seed: {'x' * 5000}")
    assert len(problem) < 200


def test_a_mapping_where_a_block_with_keys_is_wanted_is_told_for_a_scalar() -> None:
    [problem] = problems("cage: large")
    assert problem.startswith("zoo.yaml:1  cage: 'large': should be a valid dictionary")


def test_duplicate_keys_are_told_all_at_once_with_both_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        load.parse_yaml("seed: 1\ncage:\n  width: 1\n  width: 2\nseed: 2\n", "zoo.yaml")
    assert caught.value.problems == [
        "zoo.yaml:4  cage.width: given twice (first in line 3)",
        "zoo.yaml:5  seed: given twice (first in line 1)",
    ]


def test_the_same_key_in_two_items_of_a_list_is_no_duplicate() -> None:
    source = load.parse_yaml("animals:\n  - {type: cat}\n  - {type: cat}\n", "zoo.yaml")
    assert len(source.values["animals"]) == 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-5", 3e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-2.", -2.0),
        ("+7", 7),
        ("007", 7),
        ("no", "no"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("12:30:00", "12:30:00"),
        ("2024-05-01", "2024-05-01"),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("null", None),
        ("~", None),
        ("'3e-5'", "3e-5"),
        ("1e-5x", "1e-5x"),
        (".", "."),
    ],
)
def test_scalars_are_read_as_yaml_1_2_has_them(text: str, value: object) -> None:
    got = load.parse_yaml(f"key: {text}", "x.yaml").values["key"]
    assert (got, type(got)) == (value, type(value))


def test_no_stays_a_string_where_a_string_is_wanted() -> None:
    assert from_yaml("name: no").name == "no"


def test_3e_5_is_a_float_in_a_file_and_in_a_set() -> None:
    assert from_yaml("rate: 3e-5").rate == 3e-5
    assert from_yaml("", "rate=3e-5").rate == 3e-5


def test_later_files_win_over_earlier_ones_and_sets_over_files_and_all_over_defaults() -> None:
    first = load.parse_yaml("name: first\nseed: 1\nrate: 1.0\n", "first.yaml")
    second = load.parse_yaml("seed: 2\nrate: 2.0\n", "second.yaml")
    zoo = load.build(Zoo, load.merge([first, second, load.parse_set("rate=3.0")]))
    assert (zoo.name, zoo.seed, zoo.rate, zoo.cage) == ("first", 2, 3.0, Cage())


def test_a_value_is_blamed_on_the_source_that_won() -> None:
    first = load.parse_yaml("seed: x\n", "first.yaml")
    second = load.parse_yaml("\nseed: y\n", "second.yaml")
    with pytest.raises(ConfigError, match=r"second\.yaml:2  seed: 'y'"):
        load.build(Zoo, load.merge([first, second]))


def test_an_option_is_told_as_typed_and_wins_over_a_file() -> None:
    file = load.parse_yaml("cage: {width: 2}", "zoo.yaml")
    wins = load.merge([file, load.option("cage.width", 3, "--width 3")])
    assert load.build(Zoo, wins).cage.width == 3
    with pytest.raises(ConfigError, match=r"^--width x  cage\.width: 'x'"):
        load.build(Zoo, load.merge([file, load.option("cage.width", "x", "--width x")]))


def test_blocks_are_merged_key_by_key_and_lists_are_replaced_whole() -> None:
    text = "cage: {width: 2, inmate: {type: dog, owner: me, tricks: [sit, roll]}}"
    zoo = from_yaml(text, "cage.inmate.tricks=[beg]")
    assert zoo.cage == Cage(width=2, inmate=Dog(type="dog", owner="me", tricks=["beg"]))


def test_another_type_replaces_the_block_and_the_keys_of_the_old_one_are_gone() -> None:
    zoo = from_yaml("cage: {width: 2, inmate: {type: dog, owner: me}}", "cage.inmate.type=cat")
    assert zoo.cage == Cage(width=2, inmate=Cat(type="cat"))


def test_the_same_type_again_keeps_the_other_keys() -> None:
    zoo = from_yaml("cage: {inmate: {type: cat, lives: 3}}", "cage.inmate.type=cat")
    assert zoo.cage.inmate == Cat(type="cat", lives=3)


def test_a_method_that_is_no_discriminator_does_not_replace_its_block() -> None:
    file = load.parse_yaml("system: {type: fused, depth: 30, method: rrf}", "s.yaml")
    source = load.merge([file, load.parse_set("system.method=weighted")])
    wanted = Fusion(type="fused", depth=30, method="weighted")
    assert load.build(Search, source).system == wanted


def test_a_key_of_the_default_member_needs_no_type() -> None:
    assert from_yaml("", "cage.inmate.lives=3").cage.inmate == Cat(type="cat", lives=3)


def test_one_item_of_a_list_can_be_set_by_its_number() -> None:
    zoo = from_yaml("animals: [{type: cat}, {type: cat}]", "animals.1.lives=2")
    assert zoo.animals == [Cat(type="cat"), Cat(type="cat", lives=2)]


def test_neither_source_is_changed_by_merging() -> None:
    file = load.parse_yaml("cage: {width: 2}", "zoo.yaml")
    load.merge([file, load.parse_set("cage.width=5")])
    assert file.values == {"cage": {"width": 2}}


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=3", ""])
def test_a_set_without_key_or_value_says_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected key\.of\.config=value"):
        load.parse_set(text)


def test_a_set_with_an_equals_sign_in_its_value_is_cut_at_the_first() -> None:
    assert load.parse_set("name=a=b").values == {"name": "a=b"}


def test_a_set_whose_value_is_not_yaml_is_told() -> None:
    with pytest.raises(ConfigError, match=r"--set seed=\[1: the value is not YAML"):
        load.parse_set("seed=[1")


def test_an_empty_file_means_all_defaults() -> None:
    assert from_yaml("") == from_yaml("# only a comment\n") == Zoo()


def test_a_list_at_the_top_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml:2: a mapping of keys was expected"):
        load.parse_yaml("\n- a\n", "x.yaml")


def test_bad_yaml_is_told_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml:3: not YAML: expected ',' or ']'"):
        load.parse_yaml("a: 1\nb: [1\nc: 2\n", "x.yaml")


def test_python_objects_in_yaml_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml:1: not YAML"):
        load.parse_yaml("a: !!python/object/apply:os.getcwd []", "x.yaml")


@pytest.mark.parametrize("text", ["a: \x00", "a: !!int abc", "a: &x [*x]"])
def test_yaml_that_cannot_be_built_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.yaml"):
        load.parse_yaml(text, "x.yaml")


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        load.read_yaml(tmp_path / "none.yaml")


def test_a_file_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_bytes("name: Zoölogie".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"zoo\.yaml: not UTF-8"):
        load.read_yaml(path)


def test_a_byte_order_mark_does_not_hide_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_bytes(b"\xef\xbb\xbfseed: 3\n")
    assert load.build(Zoo, load.read_yaml(path)).seed == 3


def test_merge_keys_of_yaml_are_resolved() -> None:
    text = "animals:\n  - &one {type: cat, lives: 2}\n  - {<<: *one, temperature: 39}\n"
    assert from_yaml(text).animals[1] == Cat(type="cat", lives=2, temperature=39)


def test_the_place_of_a_missing_key_is_that_of_the_block_around_it() -> None:
    source: Any = load.parse_yaml("seed: 1\ncage:\n  inmate:\n    type: dog\n", "zoo.yaml")
    with pytest.raises(ConfigError, match=r"^zoo\.yaml:3  cage\.inmate\.owner: missing"):
        load.build(Zoo, source)
