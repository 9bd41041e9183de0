"""A script written for OpenAI's hosted fine-tuning. Nothing in it knows of hone: the client reads OPENAI_BASE_URL.

hone serve --base gpt-4o-mini-2024-07-18=smollm2-135m-instruct
export OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none
python examples/openai_client.py train.jsonl "Where is my order?"
"""

import sys
import time

from openai import OpenAI

client = OpenAI()


def main(path: str, question: str) -> None:
    """Fine-tune on a file of conversations, and ask what came of it."""
    with open(path, "rb") as content:
        file = client.files.create(file=content, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="gpt-4o-mini-2024-07-18",
        training_file=file.id,
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
            },
        },
    )
    told = set()
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(2)
        job = client.fine_tuning.jobs.retrieve(job.id)
        for event in reversed(client.fine_tuning.jobs.list_events(job.id, limit=100).data):
            if event.id not in told:
                told.add(event.id)
                print(f"{event.level:<6}{event.message}")
    if job.fine_tuned_model is None:
        sys.exit(f"{job.status}: {job.error.message if job.error else ''}")
    answer = client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": question}], temperature=0
    )
    print(f"{job.fine_tuned_model}: {answer.choices[0].message.content}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
