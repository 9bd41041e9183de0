CREATE TABLE migrations (name TEXT NOT NULL PRIMARY KEY, applied_at TEXT NOT NULL);
INSERT INTO migrations VALUES ('m001_runs', '2026-11-01T00:00:00.000000Z');
INSERT INTO migrations VALUES ('m002_versions', '2026-11-01T00:00:00.000000Z');
INSERT INTO migrations VALUES ('m003_aliases', '2026-11-01T00:00:00.000000Z');
CREATE TABLE runs (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    folder TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('created', 'running', 'done', 'failed', 'interrupted')),
    created_at TEXT NOT NULL,
    finished_at TEXT,
    config JSON,
    result JSON
);
INSERT INTO runs VALUES ('r1', 'run', 'support', 'runs/r1', 'done', '2026-11-01T00:00:00.000000Z', NULL, NULL, NULL);
INSERT INTO runs VALUES ('r2', 'run', 'support', '/home/you/r2', 'done', '2026-11-01T00:00:00.000000Z', NULL, NULL, NULL);
CREATE TABLE versions (
    name TEXT NOT NULL,
    number INTEGER NOT NULL CHECK (number > 0),
    run_id TEXT NOT NULL REFERENCES runs (id),
    base_name TEXT NOT NULL,
    base_hash TEXT NOT NULL,
    adapter_sha256 TEXT NOT NULL,
    adapter_files JSON NOT NULL,
    template_hash TEXT NOT NULL,
    data_manifest JSON NOT NULL,
    evaluation JSON,
    proof JSON,
    status TEXT NOT NULL CHECK (status IN ('proven', 'unproven')),
    created_at TEXT NOT NULL,
    PRIMARY KEY (name, number)
);
INSERT INTO versions VALUES ('support', 1, 'r1', 'smollm2-135m-instruct', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'a', '{}', 't', '{"source": {"name": "Grüße.jsonl"}, "train": []}', '{"metric": "chrf"}', NULL, 'proven', '2026-11-01T00:00:00.000000Z');
INSERT INTO versions VALUES ('support', 2, 'r2', 'smollm2-135m-instruct', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb', 'a', '{}', 't', '{}', NULL, NULL, 'unproven', '2026-11-02T00:00:00.000000Z');
CREATE INDEX versions_run_id ON versions (run_id);
CREATE TABLE aliases (
    name TEXT NOT NULL,
    alias TEXT NOT NULL,
    number INTEGER NOT NULL,
    changed_at TEXT NOT NULL,
    PRIMARY KEY (name, alias),
    FOREIGN KEY (name, number) REFERENCES versions (name, number)
);
INSERT INTO aliases VALUES ('support', 'live', 2, '2026-11-02T00:00:00.000000Z');
CREATE TABLE alias_history (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    alias TEXT NOT NULL,
    number INTEGER NOT NULL,
    changed_at TEXT NOT NULL,
    FOREIGN KEY (name, number) REFERENCES versions (name, number)
);
INSERT INTO alias_history VALUES (1, 'support', 'live', 1, '2026-11-01T00:00:00.000000Z');
INSERT INTO alias_history VALUES (2, 'support', 'live', 2, '2026-11-02T00:00:00.000000Z');
