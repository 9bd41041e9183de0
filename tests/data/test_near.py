"""Near-equality: what is grouped, what stays apart, that no pair is missed, and the figures the threshold rests on."""

from __future__ import annotations

import csv
import random
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hone.data.loader import load_examples
from hone.data.near import NEAR_THRESHOLD, comparison_texts, near_graph, normalised
from tests.data.examples import chat

QUESTION = "How do I change the PIN of my card?"
OTHERS = [
    "Where can I find the nearest cash machine?",
    "Is there a fee for transfers abroad?",
    "My parcel has not arrived yet, what now?",
]


def _grouped(*texts: str) -> bool:
    return any({0, 1} <= set(group) for group in near_graph([*texts, *OTHERS]).groups())


@pytest.mark.parametrize(
    "copy",
    [
        "how do i change the pin of my card",
        "  How do I\n\nchange the  PIN of my card ?!",
        "How do I change the P.I.N. of my card?",
        "“How do I change the PIN of my card?”",
        "How do I change the PIN of my ca-rd...",
        "\N{FULLWIDTH LATIN CAPITAL LETTER H}ow do I change the \N{MATHEMATICAL BOLD CAPITAL P}IN of my card?",
        "How do I chnage the PIN of my card?",
        "How do I chang the PIN of my card?",
        "How do I changee the PIN of my card?",
        "How do I chande the PIN of my card?",
    ],
)
def test_copies_in_disguise_are_grouped(copy: str) -> None:
    assert _grouped(QUESTION, copy)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (QUESTION, "How do I change the owner of my card?"),
        (QUESTION, "How do I change the PIN of my cards and accounts?"),
        ("What is 12 * 7?", "What is 12 * 8?"),
        ("25-759=", "25+759="),
        ("25-759=", "257-59="),
        ("What is 1 23?", "What is 12 3?"),
        ("temperature -5 today", "temperature 5 today"),
        ("name[The Eagle], food[Chinese], area[riverside]", "name[The Eagle], food[French], area[riverside]"),
        ("👍", "👎"),
        ("?", "!"),
        ("find all *.htm files in this folder", "find all *.html files in this folder"),
        ("今日は良い天気ですね", "今日は悪い天気ですね"),
    ],
)
def test_other_tasks_stay_apart(one: str, other: str) -> None:
    assert not _grouped(one, other)


def test_one_word_of_a_long_text_is_a_copy_and_of_a_short_one_is_not() -> None:
    words = [f"word{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(60)]
    for length, near in ((30, False), (60, True)):
        text = words[:length]
        changed = [*text[: length // 2], "entirely", *text[length // 2 + 1 :]]
        assert _grouped(" ".join(text), " ".join(changed)) is near, length


def test_numbers_count_in_short_texts_only() -> None:
    words = [f"w{chr(97 + n // 26)}{chr(97 + n % 26)}x" for n in range(80)]
    short, long = " ".join(words[:45]), " ".join(words)
    assert _grouped(f"{short} extra", f"{short} other")
    assert not _grouped(f"{short} 17", f"{short} 18")
    assert _grouped(f"{long} 17", f"{long} 18")


def test_normalised_text_forgets_what_does_not_count() -> None:
    assert normalised("Top-up, please!") == normalised("top up please") == normalised("TOPUP PLEASE")
    assert normalised("a + b") != normalised("a - b") or normalised("1 + 2") != normalised("1 - 2")
    assert normalised("10 20") != normalised("102 0")
    assert normalised("?!") == "?!"


def test_template_text_does_not_make_rows_alike() -> None:
    template = "Below is an instruction that describes a task. Write a response that fits. " * 6
    answers = ["boats", "chess openings", "growing tomatoes", "the moon", "winter tyres", "old maps"]
    texts = [f"{template}\nTell me about {topic} {n}" for n, topic in enumerate(answers * 2)]
    graph = near_graph(texts)
    assert len(graph.groups()) == len(texts)


@pytest.mark.parametrize(
    "fillers", [["house", "mouse", "apple", "chair"], [f"{a}{b}oat" for a in "bcgmst" for b in "hlrsw"]]
)
def test_words_that_fill_a_slot_are_no_typing_errors(fillers: list[str]) -> None:
    texts = [f"Please spell out the following word: {word}" for word in fillers]
    assert len(near_graph([*texts, *OTHERS]).groups()) == len(texts) + len(OTHERS)


def test_typing_errors_of_one_word_hang_together() -> None:
    forms = ["receive", "recieve", "receve", "receeive", "reseive", "deliver"]
    texts = [f"When do I {word} it?" for word in forms]
    assert sorted(map(len, near_graph([*texts, *OTHERS]).groups())) == [1, 1, 1, 1, 5]


def test_user_turns_are_compared_unless_they_tell_nothing() -> None:
    systems = [f"Document {n}: {text}" for n, text in enumerate(OTHERS)]
    same_question = [chat("Summarise the document.", system=system) for system in systems]
    assert comparison_texts(same_question) == [f"{system}\nSummarise the document." for system in systems]
    shared_system = [chat(text, system="Be kind.") for text in OTHERS]
    assert comparison_texts(shared_system) == OTHERS


# --- no pair is missed: against a direct reading of the definition ---------------------------------------------------

words = st.sampled_from(["red", "blue", "green", "apple", "banana", "cherry"])


def _trigrams(text: str) -> Counter[tuple[str, ...]]:
    padded = ["", "", *text.split(), "", ""]
    return Counter(tuple(padded[i : i + 3]) for i in range(len(padded) - 2))


def _without_template(counts: list[Counter[tuple[str, ...]]]) -> list[set[tuple[tuple[str, ...], int]]]:
    """The nth occurrence of a trigram as an element of its own; those in more than half of five or more texts gone."""
    elements = [{(one, n) for one, count in some.items() for n in range(count)} for some in counts]
    holders = Counter(element for some in elements for element in some)
    most = len(elements) / 2 if len(elements) >= 5 else len(elements)
    return [{element for element in some if holders[element] <= most} for some in elements]


@given(st.lists(st.lists(words, max_size=4), min_size=2, max_size=12), st.integers(0, 3), st.randoms())
def test_pairs_are_those_of_all_against_all(cores: list[list[str]], num_bases: int, order: random.Random) -> None:
    bases = [
        [stem + chr(97 + n // 7) + chr(104 + n % 7) for n in range(45)] for stem in ("stone", "river", "cloud", "light")
    ]
    texts = []
    for core in cores:
        base = bases[order.randint(0, num_bases)]
        texts.append(" ".join([*base[:30], *core, *base[30:]]))
    texts = list(dict.fromkeys(texts))
    contents = _without_template([_trigrams(text) for text in texts])
    graph = near_graph(texts)
    for i, j in combinations(range(len(texts)), 2):
        union = len(contents[i] | contents[j])
        jaccard = len(contents[i] & contents[j]) / union if union else 0.0
        found = graph.near.get(i, {}).get(j)
        if jaccard >= NEAR_THRESHOLD:
            assert found == pytest.approx(min(jaccard, 0.999))
        else:
            assert found is None


@given(st.lists(st.lists(words, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=25), st.randoms())
def test_groups_do_not_depend_on_the_order(texts: list[str], order: random.Random) -> None:
    shuffled = texts[:]
    order.shuffle(shuffled)
    groups, again = (
        sorted(sorted(some[index] for index in group) for group in near_graph(some).groups())
        for some in (texts, shuffled)
    )
    assert groups == again


@given(st.lists(st.text(max_size=30), min_size=1, max_size=15))
def test_groups_are_a_partition_closed_under_nearness(texts: list[str]) -> None:
    graph = near_graph(texts)
    groups = graph.groups()
    assert sorted(index for group in groups for index in group) == list(range(len(texts)))
    place = {index: number for number, group in enumerate(groups) for index in group}
    for index, representative in enumerate(graph.representative):
        assert place[index] == place[representative]
    for one, others in graph.near.items():
        for other in others:
            assert place[one] == place[other]
            assert graph.near[other][one] == graph.near[one][other]


# --- the figures in the module's docstring ---------------------------------------------------------------------------


def test_structured_inputs_of_e2e_stay_apart(shared_folder: Path) -> None:
    inputs: set[str] = set()
    for name in ("testset_w_refs", "devset-first3500"):
        with (shared_folder / "data" / "e2e_nlg" / f"{name}.csv").open(encoding="utf-8-sig", newline="") as stream:
            inputs |= {record["mr"] for record in csv.DictReader(stream)}
    plain = sorted(inputs)
    assert len(plain) == 1060
    for texts in (plain, [f"Describe the restaurant in one or two sentences.\n{text}" for text in plain]):
        assert len(near_graph(texts).groups()) == len(texts)
    disguised = [text.upper().replace("[", " ").replace("], ", " ; ") for text in plain]
    assert len(near_graph([*plain, *disguised]).groups()) == len(plain)


def test_near_pairs_of_real_questions_are_few_and_true(shared_folder: Path) -> None:
    texts: list[str] = []
    for name in ("train", "test"):
        with (shared_folder / "data" / "banking77" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            texts += [record["text"] for record in csv.DictReader(stream)]
    graph = near_graph(texts)
    assert len(texts) == 13083
    assert sum(map(len, graph.near.values())) // 2 == 30
    assert max(map(len, graph.groups())) <= 4


def test_ready_tasks_have_no_near_pair(shared_folder: Path) -> None:
    for task in sorted((shared_folder / "tasks").glob("*/train.jsonl")):
        examples = load_examples(str(task)).examples + load_examples(str(task.with_name("eval.jsonl"))).examples
        assert len(near_graph(comparison_texts(examples)).groups()) == len(examples), task
