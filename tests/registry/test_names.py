"""Names of versions and aliases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.errors import ConfigError
from hone.registry.names import check_alias, check_name, slug, version_name_for


@pytest.mark.parametrize("name", ["a", "support", "support-2", "a.b_c-d", "0", "x" * 64])
def test_names_that_may_be(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "Support", "-a", "a-", ".", "..", "a b", "a@1", "a/b", "ü", "x" * 65, "a\n"])
def test_names_that_may_not_be(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a name"):
        check_name(name)


def test_a_refused_name_comes_with_a_good_one() -> None:
    with pytest.raises(ConfigError) as caught:
        check_name("Müller & Söhne")
    assert str(caught.value.remedy).endswith("muller-sohne")


def test_an_alias_is_no_number() -> None:
    assert check_alias("production") == "production"
    with pytest.raises(ConfigError, match="version's number"):
        check_alias("3")
    with pytest.raises(ConfigError, match="trained from"):
        check_alias("base")


@given(st.text(max_size=100))
def test_a_slug_is_a_name_or_nothing(text: str) -> None:
    result = slug(text)
    assert result == "" or check_name(result) == result
    assert slug(result) == result


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("support.jsonl", "support"),
        ("/data/Support Desk.csv", "support-desk"),
        ("/work/support/train.jsonl", "support"),
        ("/work/support/data/train.jsonl.gz", "support"),
        ("/train.jsonl", "specialist"),
        ("/work/v1.2.jsonl", "v1.2"),
        ("/work/support/data", "support"),
        ("acme/support:train", "support"),
        ("acme/support", "support"),
        ("acme/train:test", "acme"),
    ],
)
def test_the_name_that_a_data_file_suggests(path: str, expected: str) -> None:
    assert version_name_for(path) == expected
