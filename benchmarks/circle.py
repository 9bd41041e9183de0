"""The whole circle in one command: answers, rankings, a reward model, reinforcement, and a blind comparison.

    python benchmarks/circle.py --data ../shared/tasks/e2e-data-to-text/train.jsonl --json FOLDER/circle.json

1. A version to begin with: ``hone run`` on the first rows of the data (or ``--start VERSION``).
2. Answers: ``hone rank --n 4`` lets it answer training prompts four times each.
3. Rankings: a stated rule takes the rater's place, and goes the rater's way: what is shown is read from the registry
   blind, and the vote is cast there. The rule: an answer that ends with a full sentence is better than one that does
   not; of two alike in that, the shorter one.
4. A reward model: ``hone rankings export`` and ``hone run --method reward``.
5. Reinforcement: ``hone run --method grpo --reward REWARD`` (``reinforce`` below is the one place that knows it).
6. The comparison: tuned and start answer held-out prompts, the rule votes blind, and the report gives the share that
   the tuned one wins with its interval; retention is what the run measured.

Every step's result is in the JSON file as soon as it is there, and the same command goes on where it was. ``--until
reward`` stops before reinforcement. ``--figures`` and ``--page`` keep what came out, without this machine's folders.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hone.files import write_atomically, write_json
from hone.home import hone_home
from hone.registry.votes import cast_vote, next_item
from side_by_side.page import write_between

BEGIN = "<!-- written by benchmarks/circle.py: begin -->"
END = "<!-- written by benchmarks/circle.py: end -->"
RATER = "rule"
RULE = "an answer that ends with a full sentence before one that does not; then the shorter one"
STEPS = ("start", "answers", "votes", "reward", "reinforced", "compared", "judged")


def rule(text: str) -> tuple[bool, int]:
    """How good an answer is by the rule: the lower, the better."""
    plain = text.strip()
    return (not plain.endswith((".", "!", "?")), len(plain))


def ranks_of(texts: list[str]) -> list[int]:
    """Ranks of answers by the rule, 1 the best; equal ones alike."""
    values = [rule(one) for one in texts]
    places = {value: place for place, value in enumerate(sorted(set(values)), start=1)}
    return [places[value] for value in values]


def hone(*arguments: object) -> dict[str, Any]:
    """Run a command of hone and give the JSON that it printed; its progress goes to standard error.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, "-m", "hone", *map(str, arguments), "--json"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}")
    return dict(json.loads(ended.stdout))


def vote(session: str) -> dict[str, int]:
    """Let the rule judge all that is left of a session, as a rater would: by what is shown."""
    votes = 0
    while (shown := next_item(hone_home(), session, RATER)).item is not None:
        began = time.perf_counter()
        ranks = ranks_of([one.text for one in shown.answers])
        cast_vote(hone_home(), session, shown.item.id, RATER, ranks, seconds=time.perf_counter() - began)
        votes += 1
    return {"votes": votes}


def reinforce(given: argparse.Namespace, start: str, reward: str, prompts: Path) -> dict[str, Any]:
    """Reinforcement learning on top of ``start``, a version or a base: the one place that knows how it is called."""
    options = ["--method", "grpo", "--reward", reward, "--name", "circle", "--model", start]
    return hone("run", prompts, *options, *given.reinforce_options.split())


def run_steps(given: argparse.Namespace, work: Path, told: dict[str, Any], keep: Callable[[], None]) -> None:
    """Do each step that is not done yet.

    Args:
        given: the command line.
        work: folder of the files between the steps.
        told: what is done; gains each step's result.
        keep: stores ``told``.
    """
    train, held_out = work / "prompts.jsonl", work / "held_out.jsonl"

    def start() -> dict[str, Any]:
        rows = Path(given.data).read_text(encoding="utf-8").splitlines()
        first, further = rows[: given.rows], rows[given.rows : given.rows + given.prompts]
        aside = rows[given.rows + given.prompts : given.rows + given.prompts + given.held_out]
        for path, some in ((work / "start.jsonl", first), (train, further), (held_out, aside)):
            write_atomically(path, "".join(f"{row}\n" for row in some))
        if given.start or not given.rows:
            return {"version": given.start or given.model}
        options = ["--model", given.model, "--name", "start", *given.start_options.split()]
        return hone("run", work / "start.jsonl", *options)

    def answers() -> dict[str, Any]:
        return hone("rank", _name(told["start"]), "--prompts", train, "--against", "none", "--n", 4, "--no-ask",
                    "--temperatures", "0.7,1.0,1.3", "--max-new-tokens", given.max_new_tokens)  # fmt: skip

    def reward() -> dict[str, Any]:
        rows = work / "preferences.jsonl"
        hone("rankings", "export", told["answers"]["session"], rows)
        made = hone("run", rows, "--method", "reward", "--model", given.model, "--name", "circle-reward",
                    *given.reward_options.split())  # fmt: skip
        return made

    def reinforced() -> dict[str, Any]:
        return reinforce(given, _name(told["start"]), _name(told["reward"]), train)

    def compared() -> dict[str, Any]:
        return hone("rank", _name(told["reinforced"]), "--prompts", held_out, "--against", _name(told["start"]),
                    "--n", 2, "--no-ask", "--max-new-tokens", given.max_new_tokens)  # fmt: skip

    def judged() -> dict[str, Any]:
        vote(told["compared"]["session"])
        shown = hone("rankings", "show", told["compared"]["session"])
        return {"report": shown["report"], "retention": told["reinforced"].get("retention")}

    steps = {"start": start, "answers": answers, "votes": lambda: vote(told["answers"]["session"]), "reward": reward,
             "reinforced": reinforced, "compared": compared, "judged": judged}  # fmt: skip
    for name in STEPS:
        if name not in told:
            began = time.perf_counter()
            told[name] = {**steps[name](), "step_seconds": round(time.perf_counter() - began, 1)}
            keep()
            print(f"{name}: {told[name]['step_seconds']} s", file=sys.stderr)
        if name == given.until:
            return


def _name(result: dict[str, Any]) -> str:
    return str(result["version"])


def figures(told: dict[str, Any]) -> dict[str, Any]:
    """What a finished circle found: the figures alone."""
    of_reward, of_run = (told[name]["evaluation"] for name in ("reward", "reinforced"))
    questions = told["reinforced"]["retention"]["probes"]
    return {
        "rule": RULE,
        "seconds": {name: told[name]["step_seconds"] for name in STEPS},
        "votes": told["votes"]["votes"],
        "reward_model": {
            "pairs": of_reward["rows"], **_arms(of_reward), "slices": of_reward["preferences"]["slices"],
            "longer_is_better": of_reward["preferences"]["longer_is_better"],
        },
        "reinforced": {
            "rows": of_run["rows"], **_arms(of_run), "rewards": of_run["rewards"],
            "metrics": {arm: of_run["arms"][arm]["metrics"] for arm in ("base", "tuned")},
            "warnings": told["reinforced"]["verdict"]["warnings"], "kept": told["reinforced"]["retention"]["kept"],
            "questions": {name: questions[name] for name in ("base", "tuned", "difference", "interval")},
        },
        "judged": {"longer": told["judged"]["report"]["longer"], **told["judged"]["report"]["against"][0]},
    }  # fmt: skip


def _arms(evaluation: dict[str, Any]) -> dict[str, Any]:
    arms = {name: {key: arm[key] for key in ("score", "interval", "stop_share")}
            for name, arm in evaluation["arms"].items()}  # fmt: skip
    found = evaluation["differences"][0]
    return {"arms": arms, "difference": {key: found[key] for key in ("difference", "interval", "p_value")}}


def table(found: dict[str, Any], command: str) -> str:
    """The figures as a table for a page."""

    def of(value: float, interval: list[float] | None, form: str) -> str:
        return f"{value:{form}}" + (f" ({interval[0]:{form}} to {interval[1]:{form}})" if interval else "")

    def difference(part: dict[str, Any], form: str) -> str:
        return of(part["difference"]["difference"], part["difference"]["interval"], f"+{form}")

    model, run, judged, seconds = found["reward_model"], found["reinforced"], found["judged"], found["seconds"]
    base, tuned = model["arms"]["base"], model["arms"]["tuned"]
    questions, before, after = run["questions"], run["arms"]["base"], run["arms"]["tuned"]
    asked = (seconds["answers"] + seconds["votes"]) / 60
    lines = [
        f"`{command}`",
        "",
        "| step | minutes | what came out |",
        "|---|---|---|",
        f"| answers, votes by the rule | {asked:.1f} | {found['votes']} rankings |",
        f"| reward model | {seconds['reward'] / 60:.1f} | {model['pairs']} held-out pairs: right on "
        f"{of(tuned['score'], tuned['interval'], '.1f')} of 100, the base's likelihood on {base['score']:.1f}; "
        f"difference {difference(model, '.1f')} |",
        f"| reinforcement | {seconds['reinforced'] / 60:.1f} | {run['rows']} held-out prompts: reward "
        f"{before['score']:.2f} to {after['score']:.2f}, {difference(run, '.2f')}; answers "
        f"that end {before['stop_share']:.0%} to {after['stop_share']:.0%}; tokens an answer "
        f"{run['rewards']['base']['length']:.0f} to {run['rewards']['tuned']['length']:.0f}; general questions "
        f"{questions['base']:.1f} to {questions['tuned']:.1f} ({'kept' if run['kept'] else 'not kept'}) |",
        f"| blind comparison | {(seconds['compared'] + seconds['judged']) / 60:.1f} | {judged['wins']} won, "
        f"{judged['losses']} lost, {judged['ties']} tied, {judged['same']} alike: "
        f"{of(judged['share']['value'], judged['share']['interval'], '.1f')} of 100 |",
        "",
        *(f"hone's own warning: {one}" for one in run["warnings"]),
        "",
    ]
    return "\n".join(lines)


def _summary(told: dict[str, Any]) -> str:
    lines = [f"The rule: {RULE}."]
    if "reward" in told:
        evaluation = told["reward"].get("evaluation") or {}
        tuned = evaluation.get("arms", {}).get("tuned", {})
        lines.append(f"Reward model {told['reward']['version']}: held-out pairs right {tuned.get('score')}%, "
                     f"interval {tuned.get('interval')}")  # fmt: skip
    if "judged" in told:
        for one in told["judged"]["report"]["against"]:
            share = one["share"]
            lines.append(f"{one['contender']} against {one['against']}: {share['value']:.1f}% won, interval "
                         f"{share['interval']}, winner {one['winner']}")  # fmt: skip
    return "\n".join(lines)


def _command(given: argparse.Namespace) -> str:
    words = f"python benchmarks/circle.py --data {given.data} --json FOLDER/circle.json --prompts {given.prompts}"
    words += f" --held-out {given.held_out} --max-new-tokens {given.max_new_tokens}"
    words += f' --reinforce-options "{given.reinforce_options}"' if given.reinforce_options else ""
    return words + " --figures docs/circle.json --page docs/rank.md"


def main() -> None:
    """Run the steps that are not done yet, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="rows: the first to begin with, then prompts, then held-out ones")
    parser.add_argument("--json", required=True, help="what is done; the same command goes on")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="the base")
    parser.add_argument("--start", help="begin with this version")
    parser.add_argument("--rows", type=int, default=0, help="rows of the first training; 0 begins with the base")
    parser.add_argument("--prompts", type=int, default=120, help="prompts that are answered four times")
    parser.add_argument("--held-out", type=int, default=60, help="prompts of the comparison")
    parser.add_argument("--max-new-tokens", type=int, default=96, help="longest answer")
    parser.add_argument("--start-options", default="", help="further options of the first training")
    parser.add_argument("--reward-options", default="", help="further options of the reward model's training")
    parser.add_argument("--reinforce-options", default="", help="further options of the reinforcement")
    parser.add_argument("--figures", type=Path, help="file that keeps what came out")
    parser.add_argument("--page", type=Path, help="page whose table is written anew")
    parser.add_argument("--until", choices=STEPS, default=STEPS[-1], help="stop after this step")
    given = parser.parse_args()
    target = Path(given.json)
    target.parent.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {"rule": RULE}
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    run_steps(given, target.parent, told, lambda: write_atomically(target, json.dumps(told, ensure_ascii=False)))
    print(_summary(told))
    if "judged" not in told:
        return
    if given.figures:
        write_json(given.figures, figures(told))
    if given.page:
        write_between(given.page, BEGIN, END, table(figures(told), _command(given)))


if __name__ == "__main__":
    main()
