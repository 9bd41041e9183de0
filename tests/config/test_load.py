"""Config files: read with line numbers, merged with the command line, written back equal."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hone.config import RunConfig, TrainConfig, dump_resolved, load_config
from hone.config.load import _read
from hone.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "hone.yaml"


def test_the_command_line_wins(file: Path) -> None:
    file.write_text("data: x.jsonl\nrank: 8\nepochs: 2\n")
    config = load_config(TrainConfig, {"rank": 16, "epochs": None}, file=file)
    assert (config.data, config.rank, config.epochs) == ("x.jsonl", 16, 2)


def test_no_file_is_needed() -> None:
    assert load_config(TrainConfig, {"data": "x", "rank": None}) == TrainConfig(data="x")


def test_a_good_value_of_the_command_line_mends_a_bad_one_of_the_file(file: Path) -> None:
    file.write_text("data: x\nrank: 0\n")
    assert load_config(TrainConfig, {"rank": 4}, file=file).rank == 4
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, {"rank": -4}, file=file)
    assert caught.value.what == "rank = -4: must be at least 1"  # the file has no part in it


def test_all_problems_of_file_and_command_line_come_together_with_their_lines(file: Path) -> None:
    file.write_text(
        "# a comment\nepochs: 0\nlerning_rate: 1e-4\nrank: yes\nrank: 3\nmap:\n  prompt: q\n  prompt: r\n",
    )
    with pytest.raises(ConfigError, match="6 options are wrong") as caught:
        load_config(RunConfig, {"seed": -1}, file=file)
    assert sorted(caught.value.details) == sorted(
        [
            f"{file}:5: rank is given twice (first on line 4)",
            f"{file}:8: prompt is given twice (first on line 7)",
            f"{file}:2: epochs = 0: must be at least 1",
            f"{file}:3: lerning_rate: there is no such option; did you mean learning_rate?",
            "data is missing, and has no default",
            "seed = -1: must be at least 0",
        ]
    )
    assert caught.value.where == str(file)


def test_an_option_is_told_of_as_it_was_given(file: Path) -> None:
    words = {"data": "DATA", "rank": "--rank", "max_steps": "--max-steps", "method": "--method", "beta": "--beta"}
    given = {"max_steps": "0", "method": "sft"}
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, {**given, "beta": "0.1"}, words=words)
    assert caught.value.details == (
        "DATA is missing, and has no default",
        "--max-steps 0: must be at least 1",
        "--beta 0.1 has no effect with --method sft; leave it out",
    )
    file.write_text("data: x\nrank: 0\nbeta: 0.1\n")
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, given, file=file, words=words)
    assert caught.value.details == (
        f"{file}:2: rank = 0: must be at least 1",
        "--max-steps 0: must be at least 1",
        f"{file}:3: beta = 0.1 has no effect with --method sft; leave it out",
    )


def test_a_key_given_twice_is_refused_even_where_both_are_right(file: Path) -> None:
    file.write_text("data: x\ndata: x\n")
    with pytest.raises(ConfigError, match="data is given twice"):
        load_config(TrainConfig, {}, file=file)


def test_merged_anchors_are_no_duplicates(file: Path) -> None:
    file.write_text("map: &m {prompt: q}\ndata: x\n")
    assert load_config(TrainConfig, {}, file=file).mapping == {"prompt": "q"}
    file.write_text("data: x\nmap:\n  <<: {prompt: a, completion: b}\n  prompt: q\n")
    assert load_config(TrainConfig, {}, file=file).mapping == {"prompt": "q", "completion": "b"}


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "\ufeffdata: y\n"])
def test_files_that_say_little(file: Path, content: str) -> None:
    file.write_text(content, encoding="utf-8")
    assert load_config(TrainConfig, {"data": "x"}, file=file).data == "x"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"data: [1\nrank: 2\n", r"hone\.yaml:2: is not YAML"),
        (b"data: x\n\trank: 2\n", r"hone\.yaml:2: is not YAML"),
        (b"- a\n- b\n", r"hone\.yaml:1: holds no options"),
        (b"text\n", r"hone\.yaml:1: holds no options"),
        (b"a: 1\n---\nb: 2\n", "is not YAML"),
        (b"data: \xff\n", "is not UTF-8"),
        (b"data: !!python/object/apply:os.system [echo]\n", "is not YAML"),
        (b"data: *missing\n", "is not YAML"),
        (b"data: 2026-13-01\n", "is not YAML that can be read"),
        (b"data: " + b"[" * 2000, "is not YAML that can be read"),
        (b"data: \x00\n", "is not YAML that can be read"),
        (b"? [a, b]\n: 1\n", "is not YAML"),
        (b"a: &a [*a]\n", "a: there is no such option"),
        (b"1: x\n", "1: there is no such option"),
    ],
)
def test_files_that_cannot_be_used(file: Path, content: bytes, part: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=part):
        load_config(TrainConfig, {"data": "x"}, file=file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: cannot be read: No such file"):
        load_config(TrainConfig, {}, file=tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(TrainConfig, {}, file=tmp_path)


@given(st.binary(max_size=200) | st.text(alphabet="ab:-[]{}&*!?|>'\"#%@`\\ \n\t0123456789_.~<=e", max_size=60))
def test_no_file_makes_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes | str) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "hone.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with contextlib.suppress(ConfigError):  # every other error fails the test
        assert load_config(TrainConfig, {"data": "x"}, file=path).seed >= 0


class TestDumpResolved:
    def test_what_is_written_is_read_back_equal(self, tmp_path: Path) -> None:
        config = RunConfig(
            data="Grüße: # x.jsonl",
            map="prompt=yes,completion=1e-4",
            output=tmp_path,
            learning_rate=1e-5,
            held_out=40,
            validation=0.1,
            name="0123",
            dtype="bfloat16",
        )
        path = tmp_path / "config.yaml"
        dump_resolved(config, path)
        assert load_config(RunConfig, {}, file=path) == config
        assert "Grüße" in path.read_text(encoding="utf-8")

    def test_every_option_is_written_under_its_own_name(self, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        dump_resolved(RunConfig(data="x", eval="y"), path)
        written = yaml.safe_load(path.read_text())
        assert len(written) == len(RunConfig.model_fields)
        assert (written["eval"], written["map"], written["rank"]) == ("y", None, None)


def test_places_are_the_lines_of_the_keys(file: Path) -> None:
    file.write_text("\n\ndata: x\n\nrank: 2\n")
    assert _read(file).places == {"data": f"{file}:3", "rank": f"{file}:5"}
