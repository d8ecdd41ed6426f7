"""YAML as the loader reads it: what is written counts, and nothing in a file costs more than its size."""

from __future__ import annotations

import time

import pytest
import yaml

from lbd.config.tree import MAX_NODES, parse, plain, resolve


@pytest.fixture(params=["libyaml", "pure Python"], autouse=True)
def loader(request, monkeypatch):
    """Every claim holds for PyYAML's own parser too, which takes over where libyaml is missing."""
    if request.param == "pure Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=True)
    return request.param


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("12:30", "12:30"),
        ("022", "022"),
        ("0x1f", "0x1f"),
        ("0o17", "0o17"),
        ("1_000", "1_000"),
        ("1e3", "1e3"),
        ("1.5", "1.5"),
        (".inf", ".inf"),
        ("on", "on"),
        ("No", "No"),
        ("y", "y"),
        ("2026-01-01", "2026-01-01"),
        ("True", True),
        ("false", False),
        ("80", 80),
        ("-5", -5),
        ("+5", 5),
        ("0", 0),
        ("~", None),
        ("null", None),
        ("", None),
        ("9" * 18, int("9" * 18)),
        ("9" * 5000, "9" * 5000),
        ("\u0663", "\u0663"),
    ],
)
def test_plain_scalar_means_what_is_written(written, value):
    assert resolve(written) == value
    assert type(resolve(written)) is type(value)


@pytest.mark.parametrize("written", ['"80"', "'80'", "|-\n  80", ">-\n  80"])
def test_quoted_number_stays_text(written):
    root, errors = parse(f"a: {written}\n", "f")
    assert errors == []
    assert plain(root) == {"a": "80"}


def problems(text: str) -> list[str]:
    _root, errors = parse(text, "f")
    return [str(error) for error in errors]


def test_anchors_aliases_and_merge_keys_work():
    text = """\
defaults: &d {port: 80, weight: 1}
other: &o {port: 81, admin_state: enabled}
a: {<<: *d, weight: 2}
b: {<<: [*d, *o]}
c: *d
"<<": quoted
"""
    root, errors = parse(text, "f")
    assert errors == []
    assert plain(root) == {
        "defaults": {"port": 80, "weight": 1},
        "other": {"port": 81, "admin_state": "enabled"},
        "a": {"port": 80, "weight": 2},
        "b": {"port": 80, "weight": 1, "admin_state": "enabled"},
        "c": {"port": 80, "weight": 1},
        "<<": "quoted",
    }


def test_a_merge_of_something_else_is_an_error():
    assert problems("a: {<<: 1}\n") == ['f:1:5: a["<<"]: takes a mapping or a list of mappings']


def test_anchor_that_is_defined_again_counts_from_there_on():
    root, errors = parse("[&a 1, *a, &a 2, *a]", "f")
    assert errors == []
    assert plain(root) == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: *nowhere\n", "f:1:4: a: *nowhere refers to an anchor that is not defined above"),
        ("a: &x [1, *x]\n", "f:1:11: a[1]: *x stands inside of what it refers to"),
        ("&x {a: {b: *x}}\n", "f:1:12: a.b: *x stands inside of what it refers to"),
    ],
)
def test_alias_without_a_finished_anchor_is_an_error(text, line):
    assert problems(text) == [line]


def test_a_billion_laughs_end_early():
    text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    started_s = time.process_time()
    (line,) = problems(text)
    assert time.process_time() - started_s < 1
    assert line.endswith(f"the file has more than {MAX_NODES} values, aliases counted in full")


def test_a_billion_laughs_by_merge_keys_end_early():
    text = "a0: &a0 {k: x}\n" + "".join(
        f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}\n" for level in range(1, 9)
    )
    started_s = time.process_time()
    (line,) = problems(text)
    assert time.process_time() - started_s < 1
    assert "aliases counted in full" in line


@pytest.mark.parametrize("opening", ["[", "{", "- ", "? ", "[{a: ", "!t [", "&a ["])
def test_deep_nesting_ends_at_the_limit_and_costs_nothing(opening):
    started_s = time.process_time()
    *_, last = problems(opening * 200_000)
    assert time.process_time() - started_s < 5
    assert last.endswith("is nested more than 32 levels deep")


def test_nesting_through_aliases_is_counted():
    text = "".join(f"a{level}: &a{level} [{'*a' + str(level - 1) if level else '1'}]\n" for level in range(40))
    (line,) = problems(text)
    assert line == "f:31:12: a30[0]: is nested more than 32 levels deep"


def test_file_of_more_values_than_a_configuration_can_have_is_refused(monkeypatch):
    monkeypatch.setattr("lbd.config.tree.MAX_NODES", 1000)
    assert problems("[" + "[]," * 1001 + "]") == [
        "f:1:3002: [1000]: the file has more than 1000 values, aliases counted in full"
    ]
    assert problems("[" + "[]," * 999 + "]") == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a: !!python/object/apply:os.system [ls]\n", ['f:1:4: a: has the tag "!!python/object/apply:os.system"']),
        ("a: !!int '80'\n", ['f:1:4: a: has the tag "!!int"']),
        ("a: !secret x\nb: ! y\n", ['f:1:4: a: has the tag "!secret"', 'f:2:4: b: has the tag "!"']),
        ("!!map {a: 1}\n", ['f:1:1: has the tag "!!map"']),
        ("%TAG ! tag:evil,2000:\n---\na: !x y\n", ['f:3:4: a: has the tag "tag:evil,2000:x"']),
    ],
)
def test_every_tag_is_refused(text, lines):
    assert problems(text) == [line + "; tags are not supported" for line in lines]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("80: a\n", "f:1:1: the key 80 must be text: put it in quotes"),
        ("a: {true: 1}\n", "f:1:5: a: the key true must be text: put it in quotes"),
        ("a: {~: 1}\n", "f:1:5: a: the key nothing must be text: put it in quotes"),
        ("? [a]\n: 1\n", "f:1:3: a key must be text, not a list or a mapping"),
    ],
)
def test_key_that_is_no_text_is_refused(text, line):
    assert problems(text) == [line]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: [1\n", "f:2:1", "expected ',' or ']'"),
        ("a:\n\tb: 1\n", "f:2:1", "indent with spaces, not with tabs"),
        ("a: 1\n  b: 2\n", "f:2:4", "mapping values are not allowed"),
        ("a: 'x\n", "f:2:1", "unexpected end of stream"),
        ("a: @x\n", "f:1:4", "cannot start any token"),
        ("a: !!!{\n", "f:1:7", "is not YAML"),
    ],
)
def test_what_is_not_yaml_is_one_error_where_it_breaks(text, place, words, loader):
    (line,) = problems(text)
    assert line.startswith(f"{place}: is not YAML: ")
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize("text", ["a: 1\n---\nb: 2\n", "a: 1\n...\n---\n", "---\n---\n"])
def test_second_document_is_an_error_where_it_begins(text):
    place = f"f:{text.rindex('---') and text[: text.rindex('---')].count(chr(10)) + 1}:1"
    assert problems(text) == [f"{place}: a second YAML document begins here; a file may have only one"]


def test_escape_of_half_a_surrogate_pair_is_an_error():
    (line,) = problems('a: "\\ud800"\n')
    assert line.startswith("f:1:")


@pytest.mark.parametrize("text", ["", "# nothing\n", "\n\n", "%YAML 1.2\n# x\n"])
def test_file_without_a_document_is_empty_or_broken(text):
    (line,) = problems(text)
    assert line.startswith("f:")
    assert "is empty" in line or "is not YAML" in line
