"""What the renderer finds out about a template by itself: how turns end, and how to keep the date out."""

from __future__ import annotations

import datetime

import pytest

from hone.data.render import Renderer
from hone.errors import TemplateError
from hone.types import Example, Message
from tests.data.chat_tokenizers import (
    CHATML,
    family_tokenizer,
    small_tokenizer,
)
from tests.data.rendering import (
    HEAD,
    TAIL,
    TRL,
    TURN,
    calling,
    custom,
    stop_texts,
    supervised_text,
    talk,
    trl,
)

# --- the date ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gptoss", "llama3_2", "muse_glimmer"])
def test_the_text_is_the_same_on_any_day(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = family_tokenizer(name, TRL[name])
    texts, raw = [], []
    for year in (1999, 2031):

        class Clock(datetime.datetime):
            day = datetime.datetime(year, 1, 2)

            @classmethod
            def now(cls, tz=None):
                return cls.day

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        texts.append(Renderer(tokenizer).prompt_text([Message("user", "q")]))
        raw.append(tokenizer.apply_chat_template([{"role": "user", "content": "q"}], tokenize=False))
    assert texts[0] == texts[1]
    assert raw[0] != raw[1], "the template must be one that prints the date"
    assert "2024" in texts[0]
    assert Renderer(tokenizer).describe()["date"] == "2024-07-26"


def test_fixing_the_date_changes_nothing_else_not_even_leading_white_space() -> None:
    body = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    body += "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    dated = "\n  {% if true %}\n  D{{ strftime_now('%d') }} {{ strftime_now(\"%B %Y\") }}\n  {% endif %}\n" + body
    plain = "\n  {% if true %}\n  D26 July 2024\n  {% endif %}\n" + body
    texts = [
        Renderer(small_tokenizer(source, eos="<|im_end|>")).prompt_text([Message("user", "q")])
        for source in (dated, plain)
    ]
    assert texts[0] == texts[1]
    assert "D26 July 2024" in texts[0]


# --- ends of turns ----------------------------------------------------------------------------------------------------


def test_stops_are_the_end_of_sequence_the_end_of_turn_the_end_of_calls_and_those_given() -> None:
    assert stop_texts(trl("gemma")) == ["<eos>", "<end_of_turn>"]
    assert stop_texts(trl("gptoss")) == ["<|return|>", "<|call|>"]
    tokenizer = small_tokenizer(CHATML, eos="<|endoftext|>", further=("<|stop|>",))
    extra = tokenizer.convert_tokens_to_ids("<|stop|>")
    assert stop_texts(Renderer(tokenizer, extra_stop_ids=(extra,))) == ["<|endoftext|>", "<|im_end|>", "<|stop|>"]


def test_a_conversations_end_behind_the_turns_end_splits_nothing() -> None:
    """Phi-3's way, and ChatML's with an end of sequence right behind: each turn ends with its own token."""
    template = (HEAD + TURN + TAIL).replace("{% endif %}", "{% else %}<|endoftext|>{% endif %}")
    for source in (template, template.replace("<|im_end|>\n", "<|im_end|>")):
        renderer = Renderer(small_tokenizer(source, eos="<|endoftext|>"))
        example = talk("one", "two", "three", "four")
        assert len(renderer.render(example).sequences) == 1
        assert supervised_text(renderer, example) == ["two<|im_end|>", "four<|im_end|>"]


def test_the_end_of_a_call_is_not_the_end_of_a_turn() -> None:
    body = (
        "{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    )
    template = HEAD + "<|im_start|>{{ m.role }}\n" + body + "{% if not m.tool_calls %}<|im_end|>\n{% endif %}" + TAIL
    renderer = custom(template)
    assert stop_texts(renderer) == ["<|im_end|>"]
    with pytest.raises(TemplateError, match="ends a turn of tool calls with none of the stop tokens"):
        renderer.render(Example(calling({"city": "Rome"}).messages))
    assert renderer.render(talk("q", "a"))


def test_an_end_of_turn_that_is_not_marked_as_special_is_found_and_guarded() -> None:
    renderer = Renderer(small_tokenizer(CHATML, eos="<|endoftext|>", ordinary={"<|im_start|>", "<|im_end|>"}))
    assert stop_texts(renderer) == ["<|endoftext|>", "<|im_end|>"]
    assert supervised_text(renderer, talk("q", "a")) == ["a<|im_end|>"]
    with pytest.raises(TemplateError, match="control token"):
        renderer.render(talk("<|im_start|>", "a"))


def test_where_the_template_ends_no_answer_the_end_of_sequence_is_appended() -> None:
    template = HEAD + "<|{{ m.role }}|>\n{{ m.content }}" + "{% endfor %}"
    template += "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    further = ("<|user|>", "<|assistant|>", "<|system|>")
    renderer = Renderer(small_tokenizer(template, eos="<eos>", further=further))
    assert supervised_text(renderer, talk("one", "two", "three", "four")) == ["two<eos>", "four<eos>"]
    assert renderer.describe()["end_appended"]
    with pytest.raises(TemplateError, match="ends an answer with no token") as caught:
        Renderer(small_tokenizer(template, further=further))
    assert "never stop" in (caught.value.why or "")
