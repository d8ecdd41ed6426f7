"""Whatever the file: never a traceback; and every good configuration that can be generated loads to what it says."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import get_args, get_origin

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from kit_generated import states
from kit_written import in_file
from lbd.config import ConfigErrors, load
from lbd.config.schema import FileShape
from lbd.model.desired import (
    DesiredState,
)

EXAMPLES = [(Path(__file__).parents[3] / "config" / name).read_bytes() for name in ("lbd.yaml", "kubernetes.yaml")]
LINE = re.compile(r"(?:one|two)\.yaml:([0-9]+):([0-9]+): \S.*")

bounded = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def judged(*contents: bytes, generation: int = 1) -> DesiredState | list[str]:
    """Load files of these contents; what comes out is a state, or errors that each are one line with a real place."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name, _ in zip(("one.yaml", "two.yaml"), contents, strict=False)]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        try:
            return load(paths, generation)
        except ConfigErrors as found:
            lines = [str(error).removeprefix(folder + "/").replace(folder + "/", "") for error in found.errors]
    assert lines
    texts = dict(zip(("one.yaml", "two.yaml"), contents, strict=False))
    for line in lines:
        place = LINE.fullmatch(line)
        assert place is not None, line
        assert line.isprintable(), line
        assert 1 <= int(place[1]) <= len(re.split(rb"\r\n?|\n|\xc2\x85|\xe2\x80[\xa8\xa9]", texts[line[:8]])) + 1, line
        assert int(place[2]) >= 1
    return lines


@bounded
@given(st.binary(max_size=400))
def test_random_bytes_never_raise_anything_else(content):
    judged(content)


@bounded
@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,?~<0 \n\t\r\u2028é", max_size=120))
def test_random_yaml_punctuation_never_raises_anything_else(text):
    judged(text.encode())


@bounded
@given(st.text(max_size=200))
def test_random_text_never_raises_anything_else(text):
    judged(text.encode(errors="surrogatepass"))


def keys_below(shape: type[BaseModel]) -> set[str]:
    """Return every key that may stand in a mapping of this shape or deeper."""
    found = set(shape.model_fields)
    for field in shape.model_fields.values():
        inner = get_args(field.annotation)[-1] if get_args(field.annotation) else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= keys_below(inner)
    return found


KEYS = sorted(keys_below(FileShape) | {"<<", "system-tcp", "", "a.b", "ü"})
LIKELY_WORDS = (
    *("tcp", "udp", "http", "10s", "0s", "1m30s", "9" * 400 + "h", "100%", "10.0.0.1", "::1", "10.0.0.1:80", "[::]:1"),
    *("dns", "random", "consistent_hash", "source_ip", "client_ip", "queue", "v1", "v2", "transparent", "fe80::/64"),
    *("10.0.0.0/8", "10.0.0.1/8", "::/0", "0.0.0.0", "100/s", "9/h", "100Mbps", "1mbps", "125%", "A", "NOERROR", "."),
    *(
        "10.0.0.1-10.0.0.9",
        "fd00::/64",
        "10.0.0.1-9",
        "::-ff00::",
        "persistence",
        "network",
        "application",
        "/k",
        "lbd.io/x",
    ),
    *("/x", "200-399", "auto", "enabled", "eth0", "system-tcp", "web", "2026-01-01", "0x10", "/\r\n", "fe80::1%0"),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(LIKELY_WORDS),
)
structures = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=40,
)


def nested(**known: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Return mappings with some of the known keys, which hold the right kind of thing or anything."""
    return st.fixed_dictionaries({}, optional={key: value | structures for key, value in known.items()})


def mappings_of(shape: type[BaseModel]) -> st.SearchStrategy[dict[str, object]]:
    """Return mappings of this shape's keys, whose values are of the right structure or anything."""
    known: dict[str, st.SearchStrategy[object]] = {}
    for key, field in shape.model_fields.items():
        origin, inner = get_origin(field.annotation), field.annotation
        if origin in (list, dict):
            inner = get_args(inner)[-1]
        is_shape = isinstance(inner, type) and issubclass(inner, BaseModel)
        value = mappings_of(inner) if is_shape else scalars
        if origin is dict:
            value = st.dictionaries(st.sampled_from(["web", "system-tcp", "a.b", ""]), value, max_size=3)
        known[key] = st.lists(value, max_size=3) if origin is list else value
    return nested(**known)


files_of_real_keys = mappings_of(FileShape)


@bounded
@given(files_of_real_keys, st.none() | structures)
def test_real_keys_with_wrong_values_never_raise_anything_else(first, second):
    contents = [yaml.safe_dump(first, allow_unicode=True).encode()]
    if second is not None:
        contents.append(yaml.safe_dump(second, allow_unicode=True).encode())
    judged(*contents)


@bounded
@given(st.data())
def test_mutations_of_the_example_never_raise_anything_else(data):
    mutated = data.draw(st.integers(0, 1))
    content = bytearray(EXAMPLES[mutated])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 30))
        start = data.draw(st.integers(0, len(content)))
        piece = data.draw(st.binary(max_size=4) | st.just(bytes(content[start : start + 40])))
        content[at : at + cut] = piece
    judged(*(bytes(content) if index == mutated else example for index, example in enumerate(EXAMPLES)))


@settings(bounded, max_examples=60)
@given(states(), st.booleans(), st.booleans())
def test_good_configuration_loads_to_what_it_says_however_it_is_written(drawn, flow, split):
    state, defined = drawn
    written = in_file(state, defined)
    parts = [written]
    if split:
        names = ("health_monitors", "metrics", "address_pools")
        parts = [{key: value for key, value in written.items() if (key in names) is chosen} for chosen in (False, True)]
    contents = [
        yaml.safe_dump(part, default_flow_style=flow, allow_unicode=flow, sort_keys=False).encode() for part in parts
    ]
    first = judged(*contents, generation=state.generation)
    assert first == state
    assert judged(*contents, generation=state.generation) == first
