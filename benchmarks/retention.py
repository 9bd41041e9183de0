"""Gain against forgetting for versions that are there: what each strength of their adapters keeps and costs.

    python -m benchmarks.retention VERSION ... [--home DIR] [--strengths 0.5,1] [--probes 24]

Prints a table: bits per byte of the held-out reference answers (the gain), and every measure of retention. It is what
the bounds of ``--keep`` are to be read beside. Takes about a minute a version and strength with the embedded base.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hone.config import EvaluateConfig
from hone.data.loader import load_examples
from hone.engine.events import Tee
from hone.evaluation.likelihood import answer_bits
from hone.home import hone_home
from hone.model.lora import adapter_disabled
from hone.recipe.inference import Answerer, load_answerer, training_path
from hone.recipe.question_sets import question_sets
from hone.recipe.retention import measure_retention
from hone.recipe.rows import render_rows
from hone.types import JsonDict

COLUMNS = ("version", "strength", "domain", "questions", "lost", "gained", "KL", "text", "turned")


def held_out(answerer: Answerer) -> tuple[list[str], float, float]:
    """The reference answers, and the bits per byte that base and tuned model need for them."""
    assert answerer.run_folder is not None, "a version, not a base"
    rows = load_examples(str(answerer.run_folder / "held_out.jsonl"))
    examples, _ = render_rows(rows.examples, answerer.renderer, rows.ledger)
    sequences = [answerer.renderer.render(example).sequences[-1] for example in examples]
    size = sum(len(example.answer.encode()) for example in examples)
    forward, attention = training_path(answerer.base.model, reference=answerer.reference_path)
    with attention:
        tuned = sum(answer_bits(answerer.base.model, sequences, forward=forward))
        with adapter_disabled(answerer.base.model):
            base = sum(answer_bits(answerer.base.model, sequences, forward=forward))
    return [example.answer for example in examples], base / size, tuned / size


def line(version: str, strength: float, base: float, tuned: float, found: JsonDict) -> str:
    """One row of the table."""
    probes, own, text, brittle = (found[name] for name in ("probes", "own_answers", "general_text", "brittleness"))
    cells = [
        version,
        f"{strength:g}",
        f"{base:.3f} to {tuned:.3f}",
        f"{probes['base']:.1f} {probes['difference']:+.1f}",
        str(probes["lost"]),
        str(probes["gained"]),
        f"{own['kl_nats']:.3f}",
        f"{text['difference'] / text['base']:+.1%}",
        "" if brittle is None else f"{brittle['turned']} ({brittle['base_like_domain']})",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+")
    parser.add_argument("--home", type=Path, default=hone_home())
    parser.add_argument("--strengths", default="0.25,0.5,0.75,1")
    parser.add_argument("--probes", type=int, default=24)
    given = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for version in given.versions:
        answerer = load_answerer(version, home=given.home, note=lambda text: None)
        assert answerer.adaptation is not None, f"{version} is no version"
        questions = question_sets(EvaluateConfig.model_validate({"version": version, "probes": given.probes}))
        for strength in map(float, given.strengths.split(",")):
            answerer.adaptation.set_strength(strength)
            references, base, tuned = held_out(answerer)
            found = measure_retention(
                answerer, keep="off", questions=questions, domain_answers=references, home=given.home, recorder=Tee(),
            )  # fmt: skip
            print(line(version, strength, base, tuned, found.to_json()), flush=True)


if __name__ == "__main__":
    main()
