"""The embedded base can answer hone's own questions: there is something to lose."""

from __future__ import annotations

from pathlib import Path

import pytest

from hone.evaluation.probe_scores import render_item, score_items
from hone.evaluation.probes import probe_suite
from hone.model.forward import logits_pass
from hone.recipe.inference import load_answerer, training_path

pytestmark = pytest.mark.real


def test_the_embedded_base_is_far_better_than_guessing(embedded_base: str, hone_home: Path) -> None:
    answerer = load_answerer(embedded_base, home=hone_home, note=lambda text: None)
    items = [render_item(item, answerer.renderer, list) for item in probe_suite(6)]
    forward, attention = training_path(answerer.base.model)
    with attention:
        right = score_items(answerer.base.model, items, forward=forward, logits=logits_pass(forward))
    by_guessing = sum(one.item.chance for one in items) / len(items)
    assert by_guessing < 0.35
    assert sum(right) / len(right) > 0.6
    skills = {one.item.skill for one in items}
    able = {
        skill
        for skill in skills
        if sum(good for good, one in zip(right, items, strict=True) if one.item.skill == skill) >= 4
    }
    assert len(able) >= 9, able
